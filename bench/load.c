// load: imports one device over USB/IP, usbredir or ferry, keeps it busy, checks every answer, and says how fast they came.
//
//     load PORT BUSID in ENDPOINT LENGTH DEPTH SECONDS           bulk reads
//     load PORT BUSID out ENDPOINT LENGTH DEPTH SECONDS          bulk writes
//     load PORT BUSID control 0 LENGTH DEPTH SECONDS             GET_DESCRIPTOR(device); may be answered short
//     load PORT BUSID disk IN_ENDPOINT OUT_ENDPOINT LENGTH SECONDS
//                                                                READ(10) of a mass-storage device, one at a time
//
// The server is on 127.0.0.1. The BUSID "usbredir" is the one device of a server of that protocol, "ferry:1-1" is 1-1
// of a target of ferry. DEPTH transfers are in flight at any time. Prints one line of JSON. A wrong answer ends it with
// a line on stderr and exit status 1, for a server that answers wrongly is not fast:
//
//   - each submit is answered exactly once, with RET_SUBMIT or the same packet, its own seqnum, status 0 and all its
//     bytes;
//   - over ferry, in the order of submission; never is more asked for than the target grants, and each fourth of that is
//     acknowledged;
//   - nothing else comes, not even after the last answer;
//   - a mass-storage command ends with a CSW that has its tag, status 0 and no residue.

#include "ferry.h"
#include "usbip.h"
#include "usbredir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

enum {
    STALLED_MS = 10000,       // without a byte either way, before the server is given up
    LINGER_MS = 1000,         // for the server to close at the end
    RECEIVE_BYTES = 1 << 20,  // more where two whole answers need it
    PAGE_BYTES = 4096,
    SAMPLES = 1 << 20,        // times that percentiles are taken from: the last ones
};

static int fd;
static uint32_t devid;  // as it goes on the wire

struct answer {
    uint64_t seqnum;
    uint32_t done;  // bytes
    bool is_acknowledgement, is_whole;  // it says no number, for all was done
};

// What is different from one protocol to the other, once there is a device.
struct protocol {
    size_t submit_bytes, answer_bytes;  // before the data
    void (*number)(unsigned char *submit, uint32_t seqnum);
    struct answer (*look_at)(const unsigned char *header, bool in);  // ends the program over anything but a success
};

static _Noreturn void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail("no memory for %zu times %zu bytes", count, size);
    return memory;
}

// Bytes that begin at the border of a page, with a page more behind them, and have had their page faults.
//
// Where copies begin matters: AMD's Zen takes three times as long to a place that is, modulo a page, less than 16 bytes
// behind its source. The system's buffers begin at the border of a page, so what is sent begins in the middle of one, and
// what comes is read to a border. Else ferry, whose headers have 12 bytes, would meet it, and those with 48 never.
static void *allocate_pages(size_t size)
{
    size_t whole = (size / PAGE_BYTES + 2) * PAGE_BYTES;
    void *memory = aligned_alloc(PAGE_BYTES, whole);
    if (memory == NULL)
        fail("no memory for %zu bytes", whole);
    memset(memory, 0, whole);
    return memory;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

// -- results ----------------------------------------------------------------------------------------------------------

static struct {
    double start, end;
    uint64_t answers, bytes;
    float *seconds;  // a ring
} result;

static void begin(void)
{
    result.seconds = allocate(SAMPLES, sizeof *result.seconds);
    memset(result.seconds, 1, SAMPLES * sizeof *result.seconds);  // page faults now, not while it counts
    result.start = now();
}

static void note(double seconds, uint32_t bytes)
{
    result.seconds[result.answers++ % SAMPLES] = seconds;
    result.bytes += bytes;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// mean_us is the time from one answer to the next; the percentiles are of each answer's own time.
static void report(void)
{
    double seconds = result.end - result.start;
    size_t samples = result.answers < SAMPLES ? result.answers : SAMPLES;
    qsort(result.seconds, samples, sizeof *result.seconds, by_size);
    printf("{\"answers\": %llu, \"seconds\": %.6f, ", (unsigned long long)result.answers, seconds);
    printf("\"per_second\": %.1f, \"mb_per_second\": %.3f, ", result.answers / seconds, result.bytes / seconds / 1e6);
    printf("\"mean_us\": %.2f, ", seconds / result.answers * 1e6);
    printf("\"p50_us\": %.2f, ", result.seconds[samples / 2] * 1e6);
    printf("\"p99_us\": %.2f}\n", result.seconds[samples * 99 / 100] * 1e6);
}

// -- the import -------------------------------------------------------------------------------------------------------

static void reach(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("port %d: %s", port, strerror(errno));
    no_delay(fd);
    struct timeval patience = {.tv_sec = STALLED_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

static void import(int port, const char *busid)
{
    reach(port);
    struct import_request request = {.head = {.version = htons(VERSION), .code = htons(REQ_IMPORT)}};
    snprintf(request.busid, sizeof request.busid, "%s", busid);
    struct import_reply reply;
    if (!write_all(fd, &request, sizeof request) || !read_all(fd, &reply.head, sizeof reply.head))
        fail("no answer to the import of %s", busid);
    if (reply.head.code != htons(REP_IMPORT) || reply.head.status != 0)
        fail("import of %s: code %#x, status %u", busid, ntohs(reply.head.code), ntohl(reply.head.status));
    if (!read_all(fd, (char *)&reply + sizeof reply.head, sizeof reply - sizeof reply.head))
        fail("the answer to the import of %s was cut short", busid);
    if (strncmp(reply.busid, request.busid, sizeof reply.busid) != 0)
        fail("asked for %s, was given %.32s", busid, reply.busid);
    devid = htonl(ntohl(reply.busnum) << 16 | ntohl(reply.devnum));
}

// Ends the connection from this side. Whatever else the server has to say is one answer too many.
static void leave(void)
{
    char more;
    shutdown(fd, SHUT_WR);
    if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, LINGER_MS) > 0 && read(fd, &more, 1) > 0)
        fail("more came after the last answer");
    close(fd);
}

static struct header submit(uint32_t direction, uint32_t endpoint, uint32_t length)
{
    return (struct header){
        .command = htonl(CMD_SUBMIT),
        .devid = devid,
        .direction = htonl(direction),
        .endpoint = htonl(endpoint),
        .length = htonl(length),
        .packets = htonl(NOT_ISO),
    };
}

// The bytes that an answer says were done. Ends the program unless it is RET_SUBMIT and a success.
static uint32_t bytes_done(const struct header *reply)
{
    uint32_t seqnum = ntohl(reply->seqnum);
    if (reply->command != htonl(RET_SUBMIT))
        fail("command %#x instead of RET_SUBMIT, seqnum %u", ntohl(reply->command), seqnum);
    if (reply->flags != 0)
        fail("status %d, seqnum %u", (int32_t)ntohl(reply->flags), seqnum);
    return ntohl(reply->length);
}

static void number_submit(unsigned char *submit, uint32_t seqnum)
{
    memcpy(submit + offsetof(struct header, seqnum), &(uint32_t){htonl(seqnum)}, sizeof seqnum);
}

static struct answer look_at_reply(const unsigned char *header, bool in)
{
    (void)in;
    struct header reply;
    memcpy(&reply, header, sizeof reply);
    uint32_t done = bytes_done(&reply);
    return (struct answer){.seqnum = ntohl(reply.seqnum), .done = done};
}

static const struct protocol usbip = {sizeof(struct header), sizeof(struct header), number_submit, look_at_reply};

// -- usbredir ---------------------------------------------------------------------------------------------------------

// Waits for the device that the server has: infos come first, then it is connected.
static void join(int port)
{
    reach(port);
    struct hello ours = our_hello(), theirs;
    if (!write_all(fd, &ours, sizeof ours) || !read_all(fd, &theirs, sizeof theirs))
        fail("no hello");
    if (theirs.type != HELLO || theirs.length != ours.length || (theirs.capabilities & CAPABILITIES) != CAPABILITIES)
        fail("a hello of type %u, %u bytes, capabilities %#x", theirs.type, theirs.length, theirs.capabilities);
    struct packet head;
    char body[512];
    do {
        if (!read_all(fd, &head, sizeof head) || head.length > sizeof body || !read_all(fd, body, head.length))
            fail("no device");
    } while (head.type != DEVICE_CONNECT);
}

static struct bulk_packet bulk(uint8_t endpoint, uint32_t length, uint32_t data)
{
    return (struct bulk_packet){
        .head = {BULK_PACKET, sizeof(struct bulk_packet) - PACKET_BYTES + data, 0},
        .endpoint = endpoint,
        .length = length & 0xffff,
        .length_high = length >> 16,
    };
}

static struct control_packet get_descriptor(uint16_t length)
{
    return (struct control_packet){
        .head = {CONTROL_PACKET, sizeof(struct control_packet) - PACKET_BYTES, 0},
        .endpoint = 0x80,
        .request = 6,
        .request_type = 0x80,
        .value = 0x0100,
        .length = length,
    };
}

static void number_packet(unsigned char *submit, uint32_t seqnum)
{
    memcpy(submit + offsetof(struct packet, id), &(uint64_t){seqnum}, sizeof(uint64_t));
}

static struct answer look_at_packet(const unsigned char *header, bool in)
{
    struct bulk_packet reply;
    struct control_packet control;
    memcpy(&reply, header, sizeof reply);
    memcpy(&control, header, sizeof control);
    bool is_control = reply.head.type == CONTROL_PACKET;
    if (!is_control && reply.head.type != BULK_PACKET)
        fail("a packet of type %u, id %llu", reply.head.type, (unsigned long long)reply.head.id);
    uint8_t status = is_control ? control.status : reply.status;
    if (status != 0)
        fail("status %u, id %llu", status, (unsigned long long)reply.head.id);
    uint32_t done = is_control ? control.length : reply.length | (uint32_t)reply.length_high << 16;
    uint32_t body = sizeof reply - PACKET_BYTES + (in ? done : 0);
    if (reply.head.length != body)
        fail("%u bytes in a packet of %u bytes done, id %llu", reply.head.length, done,
             (unsigned long long)reply.head.id);
    return (struct answer){.seqnum = reply.head.id, .done = done};
}

static const struct protocol usbredir = {
    sizeof(struct bulk_packet), sizeof(struct bulk_packet), number_packet, look_at_packet};

// -- ferry ------------------------------------------------------------------------------------------------------------

static struct ferry_window window;  // of the claim, where there is one

static void claim(int port, const char *name)
{
    reach(port);
    if (!ferry_claim(fd, name, &window))
        fail("the claim of %s failed", name);
}

static struct ferry_submit submit_bulk(uint32_t endpoint, uint32_t length, uint32_t data)
{
    struct ferry_submit submit = {{htonl(12 + data), 0, htonl(ferry_word(FERRY_BULK, endpoint))}, {0}};
    memcpy(submit.body, &(uint32_t){htonl(length)}, sizeof length);
    return submit;
}

static struct ferry_submit submit_get_descriptor(uint32_t length)
{
    return (struct ferry_submit){
        {htonl(16), 0, htonl(ferry_word(FERRY_CONTROL, 0x80))}, {0x80, 6, 0, 1, 0, 0, length, length >> 8}};
}

static void number_call(unsigned char *submit, uint32_t seqnum)
{
    memcpy(submit + offsetof(struct ferry_head, identifier), &(uint32_t){htonl(seqnum)}, sizeof seqnum);
}

static struct answer look_at_record(const unsigned char *header, bool in)
{
    struct ferry_head reply;
    memcpy(&reply, header, sizeof reply);
    uint32_t identifier = ntohl(reply.identifier), size = ntohl(reply.marker);
    if (reply.word != 0)
        fail("status %u, identifier %#x", ntohl(reply.word), identifier);
    if (size < 8 || size > FERRY_MOST || (!in && size != 8))
        fail("a record of %u bytes, identifier %#x", size, identifier);
    bool is_acknowledgement = window.heartbeat != 0 && identifier == window.heartbeat;
    return (struct answer){identifier, in ? size - 8 : 0, is_acknowledgement, !in};
}

static const struct protocol ferry_bulk = {
    sizeof(struct ferry_head) + 4, sizeof(struct ferry_head), number_call, look_at_record};
static const struct protocol ferry_control = {
    sizeof(struct ferry_head) + 8, sizeof(struct ferry_head), number_call, look_at_record};

// -- many in flight ---------------------------------------------------------------------------------------------------

// Requests leave from a ring of DEPTH images, one behind the other, that differ in nothing but the seqnum: submit
// number n, counted from 0, has image n % depth and seqnum n + 1. Its image is used again once it is answered.
struct flight {
    const struct protocol *protocol;
    bool in, may_be_short, acknowledges;
    uint32_t length, depth;
    size_t image_bytes, ring_bytes;
    unsigned char *ring;
    uint64_t sent, answered;     // submits
    uint64_t queued, written;    // bytes, ever
    uint32_t *seqnum_in_flight;  // of each image; 0 is none
    double *since;               // of each image
    unsigned char *received;
    size_t start, held, capacity;  // what is not looked at yet begins at `start`
};

static void prepare(struct flight *f, const void *request)
{
    size_t header = f->protocol->submit_bytes;
    f->image_bytes = header + (f->in ? 0 : f->length);
    f->ring_bytes = f->image_bytes * f->depth;
    f->ring = (unsigned char *)allocate_pages(f->ring_bytes) + PAGE_BYTES / 2;
    for (uint32_t i = 0; i < f->depth; i++)
        memcpy(f->ring + i * f->image_bytes, request, header);
    f->seqnum_in_flight = allocate(f->depth, sizeof *f->seqnum_in_flight);
    f->since = allocate(f->depth, sizeof *f->since);
    size_t two = 2 * (f->protocol->answer_bytes + (f->in ? f->length : 0));
    f->capacity = two > RECEIVE_BYTES ? two : RECEIVE_BYTES;
    f->received = allocate_pages(f->capacity);
}

// Whether a call more is within what the target of ferry has granted.
static bool has_room(const struct flight *f)
{
    uint64_t unanswered = f->sent - f->answered;
    return window.calls == 0 ||
           (unanswered + ferry_calls(&window) < window.calls &&
            (unanswered + 1) * f->length + ferry_bytes(&window) <= window.bytes);
}

// Between two submits, for it is no part of the ring.
static void acknowledge(struct flight *f)
{
    if (f->acknowledges && f->written == f->queued) {
        f->acknowledges = false;
        if (!ferry_acknowledge(fd, &window))
            fail("no room for a heartbeat");
    }
}

static void queue(struct flight *f, double time)
{
    for (;;) {
        size_t image = f->sent % f->depth;
        if (f->seqnum_in_flight[image] != 0 || !has_room(f))
            return;
        uint32_t seqnum = ++f->sent;
        f->protocol->number(f->ring + image * f->image_bytes, seqnum);
        f->seqnum_in_flight[image] = seqnum;
        f->since[image] = time;
        f->queued += f->image_bytes;
    }
}

static _Noreturn void left_early(const struct flight *f)
{
    fail("the server closed, %llu answers missing", (unsigned long long)(f->sent - f->answered));
}

static void write_some(struct flight *f)
{
    size_t at = f->written % f->ring_bytes, size = f->queued - f->written;
    size_t before_wrap = size < f->ring_bytes - at ? size : f->ring_bytes - at;
    struct iovec parts[2] = {{f->ring + at, before_wrap}, {f->ring, size - before_wrap}};
    ssize_t sent = writev(fd, parts, 2);
    if (sent > 0)
        f->written += sent;
    else if (errno != EAGAIN)
        left_early(f);
}

static void take(struct flight *f, struct answer answer, double time)
{
    unsigned long long seqnum = answer.seqnum;
    size_t image = (seqnum - 1) % f->depth;
    if (seqnum == 0 || f->seqnum_in_flight[image] != seqnum)
        fail("seqnum %llu is not in flight", seqnum);
    if (answer.done != f->length && !(f->may_be_short && answer.done < f->length))
        fail("%u bytes done of %u, seqnum %llu", answer.done, f->length, seqnum);
    if (window.calls != 0 && seqnum != f->answered + 1)
        fail("identifier %llu, due is %llu", seqnum, (unsigned long long)f->answered + 1);
    f->seqnum_in_flight[image] = 0;
    f->answered++;
    if (window.calls != 0 && ferry_answered(&window, f->length))
        f->acknowledges = true;
    note(time - f->since[image], answer.done);
}

static void read_some(struct flight *f)
{
    ssize_t got = read(fd, f->received + f->start + f->held, f->capacity - f->held);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        left_early(f);
    f->held += got;

    double time = now();
    size_t at = 0, header = f->protocol->answer_bytes;
    while (f->held - at >= header) {
        struct answer answer = f->protocol->look_at(f->received + f->start + at, f->in);
        if (answer.is_acknowledgement) {
            ferry_acknowledged(&window);
            at += header;
            continue;
        }
        if (answer.is_whole)
            answer.done = f->length;
        if (answer.done > f->length)
            fail("%u bytes done of %u, seqnum %llu", answer.done, f->length, (unsigned long long)answer.seqnum);
        size_t size = header + (f->in ? answer.done : 0);
        if (f->held - at < size)
            break;
        take(f, answer, time);
        at += size;
    }
    f->held -= at;
    size_t start = -f->held % PAGE_BYTES;
    memmove(f->received + start, f->received + f->start + at, f->held);
    f->start = start;
}

static void keep_in_flight(struct flight *f, double seconds)
{
    fcntl(fd, F_SETFL, O_NONBLOCK);
    begin();
    double end = result.start + seconds;
    for (;;) {
        double time = now();
        acknowledge(f);
        if (time < end)
            queue(f, time);
        else if (f->answered == f->sent && window.heartbeat == 0)
            break;
        short events = POLLIN | (f->written < f->queued ? POLLOUT : 0);
        struct pollfd ready = {.fd = fd, .events = events};
        if (poll(&ready, 1, STALLED_MS) <= 0)
            fail("nothing for %d s, %llu answers missing", STALLED_MS / 1000,
                 (unsigned long long)(f->sent - f->answered));
        if (ready.revents & POLLOUT)
            write_some(f);
        if (ready.revents & ~POLLOUT)
            read_some(f);
    }
    result.end = now();
    if (f->held != 0)
        fail("%zu bytes came after the last answer", f->held);
}

// -- mass storage -----------------------------------------------------------------------------------------------------

// Source: USB Mass Storage Class, Bulk-Only Transport 1.0, §5. These two are little-endian, as this program expects of
// its machine, too; SCSI is big-endian.
struct __attribute__((packed)) cbw {
    char signature[4];
    uint32_t tag;
    uint32_t length;
    uint8_t flags, lun, cdb_length, cdb[16];
};

struct __attribute__((packed)) csw {
    char signature[4];
    uint32_t tag;
    uint32_t residue;
    uint8_t status;
};

struct disk {
    uint32_t in, out;  // endpoint numbers
    uint32_t seqnum;
};

// One transfer from start to end; how many bytes were done.
static uint32_t transfer(struct disk *d, struct header request, void *data, uint32_t length)
{
    bool in = ntohl(request.direction) == DIRECTION_IN;
    struct header reply;
    request.seqnum = htonl(++d->seqnum);
    struct iovec parts[2] = {{&request, sizeof request}, {data, in ? 0 : length}};
    if (writev(fd, parts, 2) != (ssize_t)(sizeof request + parts[1].iov_len))
        fail("write: %s", strerror(errno));
    if (!read_all(fd, &reply, sizeof reply))
        fail("no answer to seqnum %u", d->seqnum);
    uint32_t done = bytes_done(&reply);
    if (reply.seqnum != request.seqnum || done > length)
        fail("seqnum %u with %u bytes done, asked was %u with %u", ntohl(reply.seqnum), done, d->seqnum, length);
    if (in && !read_all(fd, data, done))
        fail("the data of seqnum %u was cut short", d->seqnum);
    return done;
}

// One SCSI command that reads `length` bytes, as usb-storage does it: each step waits for the one before. Returns the
// status in its CSW.
static uint8_t command(struct disk *d, const uint8_t *cdb, uint8_t cdb_length, void *data, uint32_t length)
{
    static uint32_t tag;
    struct cbw cbw = {.signature = "USBC", .tag = ++tag, .length = length, .flags = 0x80, .cdb_length = cdb_length};
    struct csw csw;
    memcpy(cbw.cdb, cdb, cdb_length);
    if (transfer(d, submit(DIRECTION_OUT, d->out, sizeof cbw), &cbw, sizeof cbw) != sizeof cbw)
        fail("CBW %u was not taken whole", tag);
    uint32_t done = length ? transfer(d, submit(DIRECTION_IN, d->in, length), data, length) : 0;
    uint32_t csw_bytes = transfer(d, submit(DIRECTION_IN, d->in, sizeof csw), &csw, sizeof csw);
    if (csw_bytes != sizeof csw || memcmp(csw.signature, "USBS", 4) != 0 || csw.tag != tag)
        fail("%u bytes that are no CSW of command %u", csw_bytes, tag);
    if (csw.status == 0 && (done != length || csw.residue != 0))
        fail("command %u: %u bytes of %u, residue %u", tag, done, length, csw.residue);
    return csw.status;
}

static void read_disk(struct disk *d, uint32_t length, double seconds)
{
    struct header configure = submit(DIRECTION_OUT, 0, 0);
    memcpy(configure.setup, (uint8_t[]){0x00, 9, 1, 0, 0, 0, 0, 0}, sizeof configure.setup);
    transfer(d, configure, NULL, 0);

    // The first command after a reset may end with UNIT ATTENTION, whose sense must be fetched.
    uint8_t sense[18], capacity[8];
    for (int tries = 0; command(d, (uint8_t[6]){0x00}, 6, NULL, 0) != 0; tries++) {
        if (tries == 3)
            fail("the disk is not ready");
        command(d, (uint8_t[6]){0x03, [4] = sizeof sense}, 6, sense, sizeof sense);
    }
    if (command(d, (uint8_t[10]){0x25}, 10, capacity, sizeof capacity) != 0)
        fail("READ CAPACITY failed");
    uint32_t last, block;
    memcpy(&last, capacity, 4);
    memcpy(&block, capacity + 4, 4);
    last = ntohl(last);
    block = ntohl(block);
    if (block == 0 || length % block != 0 || length / block > last)
        fail("%u bytes cannot be read from %u blocks of %u", length, last, block);

    unsigned char *data = allocate(1, length);
    uint32_t count = length / block, at = 0;
    begin();
    double time = result.start, end = time + seconds;
    do {
        uint8_t read10[10] = {0x28, 0, at >> 24, at >> 16, at >> 8, at, 0, count >> 8, count};
        uint8_t status = command(d, read10, sizeof read10, data, length);
        if (status != 0)
            fail("READ(10) of %u blocks at %u: status %u", count, at, status);
        at = last - at >= 2 * count ? at + count : 0;
        double done = now();
        note(done - time, length);
        time = done;
    } while (time < end);
    result.end = time;
    free(data);
}

// -- the command line -------------------------------------------------------------------------------------------------

static void load_usbip(struct flight *f, bool control, uint32_t endpoint)
{
    struct header request = submit(f->in ? DIRECTION_IN : DIRECTION_OUT, endpoint, f->length);
    if (control)
        memcpy(request.setup, (uint8_t[]){0x80, 6, 0, 1, 0, 0, f->length, f->length >> 8}, sizeof request.setup);
    f->protocol = &usbip;
    prepare(f, &request);
}

static void load_usbredir(struct flight *f, bool control, uint32_t endpoint)
{
    struct bulk_packet packet = bulk(endpoint | (f->in ? 0x80 : 0), f->length, f->in ? 0 : f->length);
    struct control_packet descriptor = get_descriptor(f->length);
    f->protocol = &usbredir;
    prepare(f, control ? (const void *)&descriptor : &packet);
}

static void load_ferry(struct flight *f, bool control, uint32_t endpoint)
{
    struct ferry_submit submit = control ? submit_get_descriptor(f->length)
                                         : submit_bulk(endpoint | (f->in ? 0x80 : 0), f->length, f->in ? 0 : f->length);
    f->protocol = control ? &ferry_control : &ferry_bulk;
    prepare(f, &submit);
}

int main(int count, char **words)
{
    bool disk = count == 8 && strcmp(words[3], "disk") == 0;
    if (!disk && count != 8) {
        fputs("use: load PORT BUSID in|out|control ENDPOINT LENGTH DEPTH SECONDS\n"
              "     load PORT BUSID disk IN_ENDPOINT OUT_ENDPOINT LENGTH SECONDS\n", stderr);
        return 2;
    }
    const char *mode = words[3];
    uint32_t numbers[3];
    for (int i = 0; i < 3; i++)
        numbers[i] = strtoul(words[4 + i], NULL, 0);
    double seconds = atof(words[7]);
    signal(SIGPIPE, SIG_IGN);
    bool is_redir = strcmp(words[2], "usbredir") == 0, is_ferry = strncmp(words[2], "ferry:", 6) == 0;
    if ((is_redir || is_ferry) && disk)
        fail("disks are read over USB/IP alone");
    if (is_redir)
        join(atoi(words[1]));
    else if (is_ferry)
        claim(atoi(words[1]), words[2] + 6);
    else
        import(atoi(words[1]), words[2]);

    if (disk) {
        read_disk(&(struct disk){.in = numbers[0], .out = numbers[1]}, numbers[2], seconds);
    } else {
        bool control = strcmp(mode, "control") == 0;
        struct flight f = {
            .in = strcmp(mode, "out") != 0, .may_be_short = control, .length = numbers[1], .depth = numbers[2]};
        (is_redir ? load_usbredir : is_ferry ? load_ferry : load_usbip)(&f, control, numbers[0]);
        keep_in_flight(&f, seconds);
        fcntl(fd, F_SETFL, 0);
        if (is_ferry && !ferry_release(fd, f.sent + 1))
            fail("the device was not taken back");
    }
    leave();
    report();
    return 0;
}
