// What load speaks besides USB/IP: ferry version 1, as docs/protocols/ferry.md has it. Integers are big-endian.
//
// Each message is a marker, which is the length of the rest, an identifier, and a word: of a call its number, endpoint
// and flags, of a reply its status. Calls of the session count from 1; those of the transport have bit 31 set.

#ifndef BENCH_FERRY_H
#define BENCH_FERRY_H

#include "usbip.h"

#include <string.h>

enum {
    FERRY_VERSION = 1,
    FERRY_CLAIM = 3,
    FERRY_RELEASE = 4,
    FERRY_CONTROL = 5,
    FERRY_BULK = 6,
    FERRY_HEARTBEAT = 21,
    FERRY_HOLD = 22,
};
enum { FERRY_MOST = 65792 };  // bytes of a record, without its marker
static const uint32_t FERRY_TRANSPORT = 0x80000000u;

struct ferry_head {
    uint32_t marker;
    uint32_t identifier;
    uint32_t word;
};

// What the target grants, and what of it is in use: replies count until a heartbeat has acknowledged them.
struct ferry_window {
    uint32_t calls, bytes;          // granted
    uint32_t unacknowledged;        // calls
    uint64_t unacknowledged_bytes;
    uint32_t acknowledging;         // calls that the heartbeat on its way acknowledges
    uint64_t acknowledging_bytes;
    uint32_t acknowledged;          // the last identifier
    uint32_t heartbeat;             // the identifier of the one on its way; 0 is none
    uint32_t questions;             // calls of the transport, ever
};

struct ferry_submit {
    struct ferry_head head;
    uint8_t body[8];  // the length in 4 bytes, or a setup packet
};

static inline uint32_t ferry_word(uint32_t number, uint32_t endpoint)
{
    return number << 24 | endpoint << 16;
}

static inline bool ferry_call(int fd, uint32_t identifier, uint32_t number, const void *body, size_t size)
{
    unsigned char raw[sizeof(struct ferry_head) + 64];
    struct ferry_head head = {htonl(8 + size), htonl(identifier), htonl(ferry_word(number, 0))};
    memcpy(raw, &head, sizeof head);
    if (size > 0)
        memcpy(raw + sizeof head, body, size);
    return write_all(fd, raw, sizeof head + size);
}

// The reply to a call; how long its body is, cut to `size` bytes, or -1 when the call failed.
static inline ssize_t ferry_reply(int fd, uint32_t identifier, void *body, size_t size)
{
    static unsigned char rest[FERRY_MOST];
    struct ferry_head head;
    if (!read_all(fd, &head, sizeof head) || head.identifier != htonl(identifier) || head.word != 0)
        return -1;
    size_t length = ntohl(head.marker) - 8;
    if (length > sizeof rest || !read_all(fd, rest, length))
        return -1;
    if (size > 0)
        memcpy(body, rest, length < size ? length : size);
    return length;
}

// Says VERSION, claims the device of that name, and holds it. Whether all that worked.
static inline bool ferry_claim(int fd, const char *name, struct ferry_window *window)
{
    struct __attribute__((packed)) {
        uint32_t version, capabilities;
        uint8_t instance[8];
        uint16_t heartbeat, grace;
        uint32_t window_calls, window_bytes, transfer_bytes;
    } granted;
    uint32_t hello[3] = {htonl(15), htonl(1), htonl(1)};
    unsigned char named[32] = {strlen(name)}, token[16];
    memcpy(named + 1, name, strlen(name));
    if (!ferry_call(fd, FERRY_TRANSPORT, FERRY_VERSION, hello, sizeof hello) ||
        ferry_reply(fd, FERRY_TRANSPORT, &granted, sizeof granted) < (ssize_t)sizeof granted ||
        !ferry_call(fd, FERRY_TRANSPORT | 1, FERRY_CLAIM, named, 1 + strlen(name)) ||
        ferry_reply(fd, FERRY_TRANSPORT | 1, token, sizeof token) < (ssize_t)sizeof token ||
        !ferry_call(fd, FERRY_TRANSPORT | 2, FERRY_HOLD, NULL, 0))
        return false;
    window->calls = ntohl(granted.window_calls);
    window->bytes = ntohl(granted.window_bytes);
    window->questions = 3;
    return true;
}

// Gives the device back; `next` is the identifier that is due. Whether RELEASE and HOLD were answered.
static inline bool ferry_release(int fd, uint32_t next)
{
    return ferry_call(fd, next, FERRY_RELEASE, NULL, 0) && ferry_reply(fd, next, NULL, 0) == 0 &&
           ferry_reply(fd, FERRY_TRANSPORT | 2, NULL, 0) == 0;
}

// A reply has come; a fourth of the window is a heartbeat's worth of them.
static inline bool ferry_answered(struct ferry_window *window, uint32_t bytes)
{
    window->unacknowledged++;
    window->unacknowledged_bytes += bytes;
    return window->heartbeat == 0 && (window->unacknowledged >= window->calls / 4 ||
                                      window->unacknowledged_bytes >= window->bytes / 4);
}

static inline uint64_t ferry_calls(const struct ferry_window *window)
{
    return window->unacknowledged + window->acknowledging;
}

static inline uint64_t ferry_bytes(const struct ferry_window *window)
{
    return window->unacknowledged_bytes + window->acknowledging_bytes;
}

// The heartbeat was answered: there is room again.
static inline void ferry_acknowledged(struct ferry_window *window)
{
    window->heartbeat = 0;
    window->acknowledging = 0;
    window->acknowledging_bytes = 0;
}

static inline bool ferry_acknowledge(int fd, struct ferry_window *window)
{
    uint32_t first = window->acknowledged + 1, last = window->acknowledged + window->unacknowledged;
    uint32_t run[2] = {htonl(first), htonl(last)};
    window->acknowledged = last;
    window->acknowledging = window->unacknowledged;
    window->acknowledging_bytes = window->unacknowledged_bytes;
    window->unacknowledged = 0;
    window->unacknowledged_bytes = 0;
    window->heartbeat = FERRY_TRANSPORT | window->questions++;
    return ferry_call(fd, window->heartbeat, FERRY_HEARTBEAT, run, sizeof run);
}

#endif
