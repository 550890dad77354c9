// floor: the least work that a USB/IP server can do, and so what the others are measured against.
//
//     floor            listens on a free port of 127.0.0.1 and says which
//     floor usbredir   speaks usbredir instead: it has one device, for one importer at a time
//
// It grants an import of any name, one importer at a time, then answers each submit with success: as many zeros as were
// asked for, or as many bytes taken as came. It knows no unlink and no error. Like any good server it answers all that
// one read brought with one write.
//
// Clients that want to know what they talk to before they talk are told of a device with a bulk endpoint each way.

#include "usbip.h"
#include "usbredir.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECEIVE_BYTES = 4 << 20, SEND_BYTES = 8 << 20 };

static unsigned char *received, *answers;  // `answers` is zeros, but for headers and descriptors that went through it

// Source: USB 2.0 §9.6. High speed, bulk endpoints 0x81 and 0x01 of 512 bytes.
static const unsigned char device_descriptor[18] = {
    18, 1, 0x00, 0x02, 0, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 0, 0, 0, 1};
static const unsigned char configuration_descriptor[32] = {
    9, 2,    32,  0,    1,    1, 0, 0x80, 50,       // one interface
    9, 4,    0,   0,    2,    0xff, 0, 0, 0,        // of the vendor's own class, two endpoints
    7, 5,    0x81, 2,   0x00, 0x02, 0,
    7, 5,    0x01, 2,   0x00, 0x02, 0};

// A list of that one device, called 1-1, with its one interface; nothing follows on this connection.
static void tell_list(int fd, struct import_reply *reply)
{
    struct operation head = {.version = htons(VERSION), .code = htons(REP_DEVLIST)};
    uint32_t count = htonl(1);
    uint8_t interface[4] = {0xff, 0, 0, 0};
    strcpy(reply->busid, "1-1");
    if (write_all(fd, &head, sizeof head) && write_all(fd, &count, sizeof count) &&
        write_all(fd, reply->path, sizeof *reply - sizeof reply->head))
        write_all(fd, interface, sizeof interface);
}

static bool grant_import(int fd)
{
    struct import_request request;
    if (!read_all(fd, &request.head, sizeof request.head))
        return false;

    struct import_reply reply = {
        .head = {.version = htons(VERSION), .code = htons(REP_IMPORT)},
        .busnum = htonl(1),
        .devnum = htonl(2),
        // speed 3 is high; vendor, product, release; class, subclass, protocol; configuration in force, how many there
        // are, how many interfaces it has
        .rest = {0, 0, 0, 3, 0x12, 0x09, 0x00, 0x01, 0x01, 0x00, 0, 0, 0, 1, 1, 1},
    };
    if (request.head.code == htons(REQ_DEVLIST)) {
        tell_list(fd, &reply);
        return false;
    }
    if (request.head.code != htons(REQ_IMPORT) || !read_all(fd, request.busid, sizeof request.busid))
        return false;
    memcpy(reply.busid, request.busid, sizeof reply.busid);
    return write_all(fd, &reply, sizeof reply);
}

// What GET_DESCRIPTOR gives in the `length` zeros at `data`; how many bytes it is. Any other request gives those zeros.
static uint32_t describe(const uint8_t *setup, unsigned char *data, uint32_t length)
{
    bool is_descriptor = setup[0] == 0x80 && setup[1] == 6;
    if (!is_descriptor || setup[3] < 1 || setup[3] > 2)
        return length;
    const unsigned char *descriptor = setup[3] == 1 ? device_descriptor : configuration_descriptor;
    uint32_t size = setup[3] == 1 ? sizeof device_descriptor : sizeof configuration_descriptor;
    size = size < length ? size : length;
    memcpy(data, descriptor, size);
    return size;
}

// Answers each whole message among the first `held` bytes received. Returns how many bytes those were, -1 when the
// importer left or wants what no floor has room for.
static ssize_t answer(int fd, size_t held)
{
    size_t at = 0, queued = 0;
    while (held - at >= sizeof(struct header)) {
        struct header submit;
        memcpy(&submit, received + at, sizeof submit);
        uint32_t length = ntohl(submit.length);
        bool in = ntohl(submit.direction) == DIRECTION_IN;
        size_t whole = sizeof submit + (in ? 0 : length);
        size_t reply_size = sizeof submit + (in ? length : 0);
        if (whole > RECEIVE_BYTES || reply_size > SEND_BYTES)
            return -1;
        if (held - at < whole)
            break;

        if (queued + reply_size > SEND_BYTES) {
            if (!write_all(fd, answers, queued))
                return -1;
            queued = 0;
        }
        if (in && submit.endpoint == 0) {
            length = describe(submit.setup, answers + queued + sizeof submit, length);
            reply_size = sizeof submit + length;
        }
        struct header reply = {
            .command = htonl(RET_SUBMIT),
            .seqnum = submit.seqnum,
            .length = htonl(length),
            .packets = submit.packets,
        };
        memcpy(answers + queued, &reply, sizeof reply);
        queued += reply_size;
        at += whole;
    }
    return write_all(fd, answers, queued) ? (ssize_t)at : -1;
}

// -- usbredir ---------------------------------------------------------------------------------------------------------

// The hello, and the same device: its infos, by endpoint place, and that it is connected.
static bool offer(int fd)
{
    struct hello ours = our_hello(), theirs;
    if (!write_all(fd, &ours, sizeof ours) || !read_all(fd, &theirs, sizeof theirs) || theirs.length != ours.length)
        return false;
    struct __attribute__((packed)) {
        struct packet head;
        uint32_t count;
        uint8_t interface[32], class[32], subclass[32], protocol[32];
    } interfaces = {{INTERFACE_INFO, 132, 0}, .count = 1, .class = {0xff}};
    struct __attribute__((packed)) {
        struct packet head;
        uint8_t type[32], interval[32], interface[32];
        uint16_t max_packet_size[32];
        uint32_t max_streams[32];
    } endpoints = {{EP_INFO, 288, 0}, .max_packet_size = {[1] = 512, [17] = 512}};
    memset(endpoints.type, 255, sizeof endpoints.type);  // none
    endpoints.type[0] = endpoints.type[16] = 0;          // control
    endpoints.type[1] = endpoints.type[17] = 2;          // bulk
    struct __attribute__((packed)) {
        struct packet head;
        uint8_t speed, class, subclass, protocol;
        uint16_t vendor, product, release;
    } device = {{DEVICE_CONNECT, 10, 0}, .speed = 2, .vendor = 0x1209, .product = 0x0001, .release = 0x0100};
    return write_all(fd, &interfaces, sizeof interfaces) && write_all(fd, &endpoints, sizeof endpoints) &&
           write_all(fd, &device, sizeof device);
}

// Puts the answer to one packet at `to`, of whose data zeros are there already; how many bytes it is.
static size_t answer_packet(const unsigned char *packet, unsigned char *to)
{
    struct bulk_packet bulk;
    struct control_packet control;
    memcpy(&bulk, packet, sizeof bulk);
    memcpy(&control, packet, sizeof control);
    if (bulk.head.type == BULK_PACKET) {
        uint32_t data = bulk.endpoint & 0x80 ? bulk.length | (uint32_t)bulk.length_high << 16 : 0;
        bulk.head.length = sizeof bulk - PACKET_BYTES + data;
        memcpy(to, &bulk, sizeof bulk);
        return sizeof bulk + data;
    }
    if (bulk.head.type == CONTROL_PACKET) {
        uint32_t data = 0;
        if (control.endpoint & 0x80) {
            uint8_t setup[4] = {control.request_type, control.request, control.value & 0xff, control.value >> 8};
            data = control.length = describe(setup, to + sizeof control, control.length);
        }
        control.head.length = sizeof control - PACKET_BYTES + data;
        memcpy(to, &control, sizeof control);
        return sizeof control + data;
    }
    if (bulk.head.type != SET_CONFIGURATION && bulk.head.type != GET_CONFIGURATION)
        return 0;
    struct packet status = {CONFIGURATION_STATUS, 2, bulk.head.id};
    memcpy(to, &status, sizeof status);
    memcpy(to + sizeof status, (uint8_t[]){0, 1}, 2);
    return sizeof status + 2;
}

// As `answer`.
static ssize_t answer_packets(int fd, size_t held)
{
    size_t at = 0, queued = 0;
    while (held - at >= sizeof(struct packet)) {
        struct bulk_packet packet = {0};
        memcpy(&packet, received + at, held - at < sizeof packet ? held - at : sizeof packet);
        size_t whole = sizeof(struct packet) + packet.head.length;
        size_t most = sizeof packet + 0x10000 + (packet.length | (size_t)packet.length_high << 16);
        if (whole > RECEIVE_BYTES || (packet.head.type == BULK_PACKET && most > SEND_BYTES))
            return -1;
        if (held - at < whole)
            break;
        if (packet.head.type != BULK_PACKET)
            most = sizeof packet + 0x10000;
        if (queued + most > SEND_BYTES) {
            if (!write_all(fd, answers, queued))
                return -1;
            queued = 0;
        }
        queued += answer_packet(received + at, answers + queued);
        at += whole;
    }
    return write_all(fd, answers, queued) ? (ssize_t)at : -1;
}

// -- connections ------------------------------------------------------------------------------------------------------

static void serve(int fd, bool redir)
{
    if (!(redir ? offer(fd) : grant_import(fd)))
        return;
    size_t held = 0;
    for (;;) {
        ssize_t got = read(fd, received + held, RECEIVE_BYTES - held);
        if (got <= 0)
            return;
        held += got;
        ssize_t done = redir ? answer_packets(fd, held) : answer(fd, held);
        if (done < 0)
            return;
        held -= done;
        memmove(received, received + done, held);
    }
}

int main(int count, char **words)
{
    bool redir = count == 2 && strcmp(words[1], "usbredir") == 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (struct sockaddr *)&address, size) || listen(listening, 8) ||
        getsockname(listening, (struct sockaddr *)&address, &size)) {
        perror("floor");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    received = malloc(RECEIVE_BYTES);
    answers = calloc(1, SEND_BYTES);
    fprintf(stderr, "listening on 127.0.0.1:%d\n", ntohs(address.sin_port));

    for (;;) {
        int fd = accept(listening, NULL, NULL);
        if (fd < 0)
            continue;
        no_delay(fd);
        serve(fd, redir);
        close(fd);
    }
}
