"""The instructions of AMX that products of bytes need, after the Intel 64 and IA-32 manual, volume 2."""

import collections
import struct

TILE_ROWS, ROW_BYTES, TILES = 16, 64, 8
# Opcode, prefix (0 none, 1 66, 2 F3, 3 F2), whether there are registers only.
CONFIGURE, RELEASE, ZERO = (0x49, 0, False), (0x49, 0, True), (0x49, 3, True)
LOAD, STORE = (0x4B, 3, False), (0x4B, 2, False)
# The sign of the bytes of the first and of the second operand.
PRODUCTS = {(0x5E, 0, True): "BB", (0x5E, 1, True): "Bb", (0x5E, 2, True): "bB", (0x5E, 3, True): "bb"}


class Tiles:
    """The tiles of a processor with this memory. What a program must not do is an AssertionError."""

    def __init__(self, memory):
        self.memory = memory
        self.shapes = None
        self.tiles = []
        self.executed = collections.Counter()

    def execute(self, at, registers):
        """Executes the instruction at `at` and returns its length; None if it is none of AMX."""
        m = self.memory
        if m[at] != 0xC4 or m[at + 1] & 31 != 2:
            return None
        index_high, base_high = ~m[at + 1] >> 3 & 8, ~m[at + 1] >> 2 & 8
        prefix, second = m[at + 2] & 3, ~m[at + 2] >> 3 & 15
        modrm = m[at + 4]
        mode, first, third = modrm >> 6, modrm >> 3 & 7, modrm & 7
        length, address, stride = 5, 0, None
        if mode != 3:
            if third == 4:
                sib = m[at + 5]
                index = (sib >> 3 & 7) | index_high
                assert mode != 0 or sib & 7 != 5, "an address without a base"
                stride = 0 if index == 4 else registers[index] << (sib >> 6)
                address, length = registers[sib & 7 | base_high], 6
            else:
                assert mode != 0 or third != 5, "an address relative to the program"
                address = registers[third | base_high]
            if mode in (1, 2):
                format, size = ("<b", 1) if mode == 1 else ("<i", 4)
                address += struct.unpack_from(format, m, at + length)[0]
                length += size
        key = (m[at + 3], prefix, mode == 3)
        if key == CONFIGURE and first == 0:
            self.configure(m[address : address + 64])
        elif key == RELEASE and modrm == 0xC0:
            self.shapes = None
        elif key == ZERO:
            self.shape(first)
            self.tiles[first] = bytearray(TILE_ROWS * ROW_BYTES)
        elif key in (LOAD, STORE):
            assert third == 4, "a tile in memory needs rows that are a register apart"
            rows, width = self.shape(first)
            tile = self.tiles[first] if key == STORE else bytearray(TILE_ROWS * ROW_BYTES)
            for row in range(rows):
                there, here = address + row * stride, row * ROW_BYTES
                if key == STORE:
                    m[there : there + width] = bytes(tile[here : here + width])
                else:
                    tile[here : here + width] = m[there : there + width]
            self.tiles[first] = tile
        elif key in PRODUCTS:
            self.multiply(first, third, second, *PRODUCTS[key])
        else:
            return None
        self.executed[key] += 1
        return length

    def configure(self, data):
        assert data[0] == 1 and not any(data[1:16]), "palette 1, all of every tile"
        widths, rows = struct.unpack_from("<16H", data, 16), data[48:64]
        assert not any(widths[TILES:]) and not any(rows[TILES:]), "there are eight tiles"
        assert all(w <= ROW_BYTES for w in widths) and all(r <= TILE_ROWS for r in rows)
        self.shapes = list(zip(rows, widths))
        self.tiles = [bytearray(TILE_ROWS * ROW_BYTES) for _ in range(TILES)]

    def shape(self, tile):
        assert self.shapes is not None, "tiles are used before they have a shape"
        rows, width = self.shapes[tile]
        assert rows and width, f"tile {tile} has no shape"
        return rows, width

    def multiply(self, sums, left, right, left_type, right_type):
        """`sums += left right`: four products of bytes at a time, in 32 bits that wrap."""
        (rows, width), (left_rows, left_width), (depth, right_width) = map(self.shape, (sums, left, right))
        assert rows == left_rows and width == right_width and left_width == 4 * depth, "shapes that do not fit"
        assert len({sums, left, right}) == 3, "a tile twice"

        def lines(tile, count, bytes, type):
            return [struct.unpack_from(f"{bytes}{type}", self.tiles[tile], ROW_BYTES * row) for row in range(count)]

        lefts, rights = lines(left, rows, left_width, left_type), lines(right, depth, width, right_type)
        # Column by column, as long as the sums of a row are.
        columns = [
            [byte for line in rights for byte in line[4 * column : 4 * column + 4]] for column in range(width // 4)
        ]
        for row, line in enumerate(lefts):
            at, format = ROW_BYTES * row, f"<{width // 4}i"
            before = struct.unpack_from(format, self.tiles[sums], at)
            after = [b + sum(map(int.__mul__, line, column)) for b, column in zip(before, columns)]
            wrapped = [(a + (1 << 31)) % (1 << 32) - (1 << 31) for a in after]
            struct.pack_into(format, self.tiles[sums], at, *wrapped)
