// What floor and load both speak: the messages of USB/IP, and whole reads and writes.
// Source: Linux Documentation/usb/usbip_protocol.rst.

#ifndef BENCH_USBIP_H
#define BENCH_USBIP_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { VERSION = 0x0111, REQ_DEVLIST = 0x8005, REP_DEVLIST = 0x0005, REQ_IMPORT = 0x8003, REP_IMPORT = 0x0003 };
enum { CMD_SUBMIT = 1, RET_SUBMIT = 3 };
enum { DIRECTION_OUT = 0, DIRECTION_IN = 1 };
enum { NOT_ISO = 0xffffffff };  // number_of_packets of anything but an isochronous transfer

struct operation {
    uint16_t version;
    uint16_t code;
    uint32_t status;
};

struct import_request {
    struct operation head;
    char busid[32];
};

struct import_reply {  // without its last part, `rest`, when the status is not 0
    struct operation head;
    char path[256];
    char busid[32];
    uint32_t busnum;
    uint32_t devnum;
    uint8_t rest[16];
};

struct header {  // of every message once a device is imported; all numbers are big-endian
    uint32_t command;
    uint32_t seqnum;
    uint32_t devid;
    uint32_t direction;
    uint32_t endpoint;
    uint32_t flags;   // of a reply: status
    uint32_t length;  // of a reply: bytes done
    uint32_t start_frame;
    uint32_t packets;
    uint32_t interval;  // of a reply: isochronous errors
    uint8_t setup[8];
};

_Static_assert(sizeof(struct import_request) == 40, "OP_REQ_IMPORT");
_Static_assert(sizeof(struct import_reply) == 320, "OP_REP_IMPORT");
_Static_assert(sizeof(struct header) == 48, "USBIP_CMD_SUBMIT");

static inline bool read_all(int fd, void *buffer, size_t size)
{
    char *at = buffer;
    while (size > 0) {
        ssize_t got = read(fd, at, size);
        if (got <= 0)
            return false;
        at += got;
        size -= got;
    }
    return true;
}

static inline bool write_all(int fd, const void *buffer, size_t size)
{
    const char *at = buffer;
    while (size > 0) {
        ssize_t sent = write(fd, at, size);
        if (sent <= 0)
            return false;
        at += sent;
        size -= sent;
    }
    return true;
}

// Nothing waits: not for more to send, and not for the clock by which BBR sends, as little as usbferry does here.
static inline void no_delay(int fd)
{
    char name[16] = "";
    socklen_t size = sizeof name;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0 && strncmp(name, "bbr", 3) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

#endif
