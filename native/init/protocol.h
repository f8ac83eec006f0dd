/*
 * protocol.h - the channel between the VMM and init: vsock, guest -> host CID
 * 2, little endian. proto/guest.ts is the contract and holds the same numbers;
 * tests/tidy/guest-protocol.test.ts compares the two files.
 *
 * A frame is u32 payload length, u16 type, u16 zero, payload.
 */
#ifndef LV_PROTOCOL_H
#define LV_PROTOCOL_H

#define LV_GUEST_PORT		   1024u
#define LV_GUEST_PROTOCOL	   1u
#define LV_GUEST_HEADER_BYTES	   8u
#define LV_GUEST_PAYLOAD_MAX_BYTES (1u << 20)

/* Upward. */
#define LV_GUEST_FRAME_HELLO   1u
#define LV_GUEST_FRAME_STARTED 2u
#define LV_GUEST_FRAME_STDOUT  3u
#define LV_GUEST_FRAME_STDERR  4u
#define LV_GUEST_FRAME_EXIT    5u
#define LV_GUEST_FRAME_ERROR   6u
#define LV_GUEST_FRAME_LOG     7u

/* Downward. */
#define LV_HOST_FRAME_RUN      16u
#define LV_HOST_FRAME_SIGNAL   17u
#define LV_HOST_FRAME_POWEROFF 18u

/* Fields of RUN: u16 field, u16 zero, u32 length, bytes. */
#define LV_RUN_FIELD_ARGV	      1u
#define LV_RUN_FIELD_ENV	      2u
#define LV_RUN_FIELD_CWD	      3u
#define LV_RUN_FIELD_USER	      4u
#define LV_RUN_FIELD_HOSTNAME	      5u
#define LV_RUN_FIELD_SEED	      6u
#define LV_RUN_FIELD_CLOCK	      7u
#define LV_RUN_FIELD_NETWORK	      8u
#define LV_RUN_FIELD_RESOLV	      9u

#define LV_GUEST_ERROR_INTERNAL	      1u
#define LV_GUEST_ERROR_ROOTFS	      2u
#define LV_GUEST_ERROR_USER	      3u
#define LV_GUEST_ERROR_CWD	      4u
#define LV_GUEST_ERROR_EXEC_NOT_FOUND 5u
#define LV_GUEST_ERROR_EXEC_DENIED    6u

#endif
