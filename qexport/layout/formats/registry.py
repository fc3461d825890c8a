"""Words <-> files: a write/read pair and a registry line for each format.

A writer gives the same bytes for the same words. A reader gives the words back, or a FileFault that names the place.
Readers of Verilog's texts (hex, bin, dec, mem) also take what people and other tools put there: comments, address
lines, `_` between digits; a plain file never leaves numpy. Upper-case digits stay refused: they are one flipped bit
away from lower-case ones, and a flipped bit is to be found in its place.
"""

from qexport.layout.formats.base import Format
from qexport.layout.formats.binary import RAW_BE, RAW_LE, read_npz, take_raw, write_npz
from qexport.layout.formats.decimals import dec_lane_at, dec_word_lines, read_dec, write_dec
from qexport.layout.formats.digits import BIN, HEX, MEM
from qexport.layout.formats.listings import C_BITS, COE, MIF, C, write_c, write_coe, write_mif
from qexport.layout.formats.records import IHEX, SREC
from qexport.layout.formats.words import take_lines

FORMATS: dict[str, Format] = {
    "hex": Format(
        HEX.write, HEX.read, "$readmemh", comment="", digit_bits=4, lane_at=HEX.lane_at,
        word_lines=HEX.word_lines, take=take_lines,
    ),
    "bin": Format(
        BIN.write, BIN.read, "$readmemb", comment="", digit_bits=1, lane_at=BIN.lane_at,
        word_lines=BIN.word_lines, take=take_lines,
    ),
    "dec": Format(
        write_dec, read_dec, "$fscanf", comment="", digit_bits=0, lane_at=dec_lane_at,
        word_lines=dec_word_lines, take=take_lines,
    ),
    "mem": Format(
        MEM.write, MEM.read, "Vivado and $readmemh", comment="//", digit_bits=4, preamble=1, lane_at=MEM.lane_at,
        word_lines=MEM.word_lines,
    ),
    "raw_be": Format(RAW_BE.write, RAW_BE.read, "$fread and numpy.fromfile", take=take_raw),
    "raw_le": Format(RAW_LE.write, RAW_LE.read, "C's fread and numpy.fromfile", take=take_raw),
    "coe": Format(write_coe, COE.read, "Vivado's memory generators", comment=";", word_lines=COE.word_lines),
    "mif": Format(write_mif, MIF.read, "Quartus", comment="--", word_lines=MIF.word_lines),
    "ihex": Format(
        IHEX.write, IHEX.read, "programmers and objcopy", max_word_bits=8 * 255, word_lines=IHEX.word_lines,
    ),
    "srec": Format(
        SREC.write, SREC.read, "programmers and boot loaders", max_word_bits=8 * 250, word_lines=SREC.word_lines,
    ),
    "c": Format(write_c, C.read, "a C compiler", comment="//", max_word_bits=max(C_BITS), word_lines=C.word_lines),
    "npz": Format(write_npz, read_npz, "numpy.load"),
}  # fmt: skip
