# SPDX-License-Identifier: GPL-2.0-or-later
"""A VNC client for tests (RFC 6143): raw pictures, keys and pointers, the password, and a WebSocket around it all."""
import base64
import os
import socket
import struct
import time

from harness import Failure, expect


def reverse_bits(byte):
    return int(f"{byte:08b}"[::-1], 2)


class Vnc:
    """Connects, agrees on a version, and gives the password; `pixels` is the picture as it is known."""

    def __init__(self, address, password=None, timeout=20, shared=True, websocket=False, origin=None, version=b"003.008",
                 start=True):
        if isinstance(address, tuple):
            self.socket = socket.create_connection(address, timeout)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        self.buffer = b""
        self.websocket = websocket
        self.extended_keys = False
        if websocket:
            self.upgrade(origin)
        if start:
            self.handshake(password, shared, version)

    # ---- bytes ----

    def upgrade(self, origin):
        key = base64.b64encode(os.urandom(16)).decode()
        request = (f"GET /websockify HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: binary\r\nSec-WebSocket-Version: 13\r\n")
        request += f"Origin: {origin or 'http://localhost'}\r\n"
        self.socket.sendall(request.encode() + b"\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.socket.recv(1)
            expect(data, f"no answer to the WebSocket request: {answer!r}")
            answer += data
        expect(answer.startswith(b"HTTP/1.1 101"), f"{answer!r}")

    def exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise Failure("the VNC server closed the connection")
            data += part
        return data

    def read(self, size):
        while len(self.buffer) < size:
            if not self.websocket:
                self.buffer += self.exactly(size - len(self.buffer))
                continue
            head = self.exactly(2)
            length = head[1] & 127
            if length == 126:
                length, = struct.unpack(">H", self.exactly(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.exactly(8))
            self.buffer += self.exactly(length)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def write(self, data):
        if self.websocket:
            mask = os.urandom(4)
            length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
            data = b"\x82" + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        self.socket.sendall(data)

    # ---- handshake ----

    def handshake(self, password, shared, version):
        expect(self.read(12) == b"RFB 003.008\n", "no greeting of RFB 3.8")
        self.write(b"RFB " + version + b"\n")
        if version == b"003.003":
            kind, = struct.unpack(">I", self.read(4))
        else:
            kinds = self.read(self.read(1)[0])
            kind = 2 if password is not None else 1
            expect(kind in kinds, f"security types {list(kinds)}")
            self.write(bytes([kind]))
        if kind == 2:
            self.answer_challenge(password)
        if kind == 2 or version == b"003.008":
            result, = struct.unpack(">I", self.read(4))
            if result:
                reason = self.read(struct.unpack(">I", self.read(4))[0]).decode() if version == b"003.008" else ""
                raise PermissionError(reason)
        self.write(bytes([shared]))
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.format = self.read(16)
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()
        self.pixels = bytearray(4 * self.width * self.height)
        self.set_encodings([0, -223, -258])

    def answer_challenge(self, password):
        """DES with each byte of the key mirrored; openssl knows it as a legacy cipher, so our own small one."""
        challenge = self.read(16)
        key = bytes(reverse_bits(b) for b in password.encode()[:8].ljust(8, b"\0"))
        self.write(des(key, challenge[:8]) + des(key, challenge[8:]))

    # ---- messages ----

    def set_encodings(self, encodings):
        self.write(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))

    def key(self, keysym, down):
        self.write(struct.pack(">BBxxI", 4, down, keysym))

    def key_number(self, number, down, keysym=0):
        self.write(struct.pack(">BBHII", 255, 0, down, keysym, number))

    def pointer(self, x, y, mask=0):
        self.write(struct.pack(">BBHH", 5, mask, x, y))

    def type(self, text):
        for c in text:
            keysym = 0xff0d if c == "\n" else ord(c)
            self.key(keysym, 1)
            self.key(keysym, 0)

    def request(self, incremental=True):
        self.write(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def update(self):
        """Reads one message; the list of rectangles that it changed."""
        kind = self.read(1)[0]
        if kind == 2:  # bell
            return []
        if kind == 3:  # cut text
            self.read(3)
            self.read(struct.unpack(">I", self.read(4))[0])
            return []
        expect(kind == 0, f"message {kind} of the server")
        count, = struct.unpack(">xH", self.read(3))
        changed = []
        for _ in range(count):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding == -223:
                self.width, self.height = w, h
                self.pixels = bytearray(4 * w * h)
                changed.append(("size", w, h))
            elif encoding == -258:
                self.extended_keys = True
            elif encoding == 0:
                data = self.read(4 * w * h)
                for line in range(h):
                    at = 4 * ((y + line) * self.width + x)
                    self.pixels[at:at + 4 * w] = data[4 * w * line:4 * w * (line + 1)]
                changed.append((x, y, w, h))
            else:
                raise Failure(f"encoding {encoding} was not asked for")
        return changed

    def picture(self, timeout=20):
        """The whole picture, asked for anew: RGB bytes."""
        deadline = time.monotonic() + timeout
        self.request(incremental=False)
        while time.monotonic() < deadline:
            changed = self.update()
            if any(c[0] == "size" for c in changed):
                self.request(incremental=False)
            elif changed:
                rgb = bytearray(3 * self.width * self.height)
                rgb[0::3], rgb[1::3], rgb[2::3] = self.pixels[2::4], self.pixels[1::4], self.pixels[0::4]
                return bytes(rgb)
        raise Failure("no picture by VNC")

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- DES (FIPS 46-3), for the password's challenge alone ----

IP = [58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4, 62, 54, 46, 38, 30, 22, 14, 6, 64, 56, 48, 40, 32, 24, 16, 8,
      57, 49, 41, 33, 25, 17, 9, 1, 59, 51, 43, 35, 27, 19, 11, 3, 61, 53, 45, 37, 29, 21, 13, 5, 63, 55, 47, 39, 31, 23, 15, 7]
E = [32, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11, 12, 13, 12, 13, 14, 15, 16, 17, 16, 17, 18, 19, 20, 21, 20, 21, 22, 23,
     24, 25, 24, 25, 26, 27, 28, 29, 28, 29, 30, 31, 32, 1]
P = [16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25]
PC1 = [57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
       63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4]
PC2 = [14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2, 41, 52, 31, 37, 47, 55, 30, 40,
       51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32]
SHIFTS = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1]
S = ["e4d12fb83a6c5907" "0f74e2d1a6cb9538" "41e8d62bfc973a50" "fc8249175b3ea06d",
     "f18e6b34972dc05a" "3d47f28ec01a69b5" "0e7ba4d158c6932f" "d8a13f42b67c05e9",
     "a09e63f51dc7b428" "d709346a285ecbf1" "d6498f30b12c5ae7" "1ad069874fe3b52c",
     "7de3069a1285bc4f" "d8b56f03472c1ae9" "a690cb7df13e5284" "3f06a1d8945bc72e",
     "2c417ab6853fd0e9" "eb2c47d150fa3986" "421bad78f9c5630e" "b8c71e2d6f09a453",
     "c1af92680d34e75b" "af427c9561de0b38" "9ef528c3704a1db6" "432c95fabe17608d",
     "4b2ef08d3c975a61" "d0b7491ae35c2f86" "14bdc37eaf680592" "6bd814a7950fe23c",
     "d2846fb1a93e50c7" "1fd8a374c56b0e92" "7b419ce206adf358" "21e74a8dfc90356b"]


def permute(value, width, table):
    out = 0
    for position in table:
        out = out << 1 | value >> (width - position) & 1
    return out


def des(key, block):
    halves = permute(int.from_bytes(key, "big"), 64, PC1)
    c, d = halves >> 28, halves & 0xfffffff
    state = permute(int.from_bytes(block, "big"), 64, IP)
    left, right = state >> 32, state & 0xffffffff
    for shift in SHIFTS:
        c = (c << shift | c >> (28 - shift)) & 0xfffffff
        d = (d << shift | d >> (28 - shift)) & 0xfffffff
        mixed = permute(right, 32, E) ^ permute(c << 28 | d, 56, PC2)
        out = 0
        for box in range(8):
            six = mixed >> (42 - 6 * box) & 63
            row, column = (six >> 4 & 2) | (six & 1), six >> 1 & 15
            out = out << 4 | int(S[box][16 * row + column], 16)
        left, right = right, left ^ permute(out, 32, P)
    both = right << 32 | left
    inverse = [0] * 64
    for i, position in enumerate(IP):
        inverse[position - 1] = i + 1
    return permute(both, 64, inverse).to_bytes(8, "big")
