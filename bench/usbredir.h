// What floor and load both speak of usbredir, with every capability in force: ids of 64 bits, lengths of 32.
// Source: usbredir docs/usb-redirection-protocol.md. All integers are little-endian, as this program expects of its
// machine.

#ifndef BENCH_USBREDIR_H
#define BENCH_USBREDIR_H

#include <stdint.h>

enum {
    HELLO = 0,
    DEVICE_CONNECT = 1,
    INTERFACE_INFO = 4,
    EP_INFO = 5,
    SET_CONFIGURATION = 6,
    GET_CONFIGURATION = 7,
    CONFIGURATION_STATUS = 8,
    CONTROL_PACKET = 100,
    BULK_PACKET = 101,
};
enum { CAPABILITIES = 0xff, PACKET_BYTES = 16 };

struct __attribute__((packed)) hello {
    uint32_t type, length, id;
    char version[64];
    uint32_t capabilities;
};

struct __attribute__((packed)) packet {
    uint32_t type;
    uint32_t length;  // of what follows
    uint64_t id;
};

struct __attribute__((packed)) bulk_packet {
    struct packet head;
    uint8_t endpoint, status;
    uint16_t length;
    uint32_t stream_id;
    uint16_t length_high;
};

struct __attribute__((packed)) control_packet {
    struct packet head;
    uint8_t endpoint, request, request_type, status;
    uint16_t value, index, length;
};

_Static_assert(sizeof(struct hello) == 80, "hello");
_Static_assert(sizeof(struct packet) == PACKET_BYTES, "header");
_Static_assert(sizeof(struct bulk_packet) == 26 && sizeof(struct control_packet) == 26, "data packets");

static inline struct hello our_hello(void)
{
    return (struct hello){
        .length = sizeof(struct hello) - 12, .version = "usbferry bench", .capabilities = CAPABILITIES};
}

#endif
