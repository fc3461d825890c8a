"""The hand-placed mutants of the reference RTL: one line of Verilog each, changed where mistakes matter.

`old` is text that stands once in the file; the part between « and » is what `new` replaces. `when` says for which
layers the edit changes anything at all: `f` has the parameters of the array by their names, and IMAGES, OX, OUTPUTS
(positions), HAS_BIAS (in the accumulator), POOLS and HELD (a pool has windows that end together).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from qexport.bench.stages import Stage
from qexport.core.steps import Add, Bias, Clamp, Multiply, Relu, ShiftRight, Threshold


@dataclass(frozen=True)
class Edit:
    """One mutant: `new` in place of the marked part of `old`."""

    name: str
    file: str
    old: str
    new: str
    what: str
    when: Callable[[SimpleNamespace], bool] = lambda f: True


def _starts_inside(f: SimpleNamespace) -> bool:
    """Whether some tile's first position and first tap meet an input, not padding.

    The os array reads there while the sums settle; where it is padding, the words are 0 and add nothing.
    """
    starts = (divmod(first, f.OX) for first in range(0, f.OUTPUTS, f.ROW))
    return any((oy > 0 or not f.PAD_TOP) and (ox > 0 or not f.PAD_LEFT) for oy, ox in starts)


_WIDTH = "[c*ACC_WIDTH +: ACC_WIDTH]"
_SUM = f"wire signed [ACC_WIDTH-1:0] v = «data0{_WIDTH}»;"
_RELU = "code = «value[ACC_WIDTH-1] ? {ACC_WIDTH{1'b0}} : value»;"
_ACCUMULATOR = f"next_data1{_WIDTH} = «sum»;"
_RESULTS = (  # of results.sv, whatever the steps
    Edit("relu-missing", "results.sv", _RELU, "value", "negative accumulators pass the ReLU",
         when=lambda f: f.HAS_RELU),
    Edit("relu-inverted", "results.sv", _RELU, "value[ACC_WIDTH-1] ? value : {ACC_WIDTH{1'b0}}",
         "the ReLU keeps the negative ones", when=lambda f: f.HAS_RELU),
    Edit("relu-absolute", "results.sv", _RELU, "value[ACC_WIDTH-1] ? -value : value",
         "absolute value in place of the ReLU", when=lambda f: f.HAS_RELU),
    Edit("relu-before-bias", "results.sv", _RELU, "data0[c*ACC_WIDTH+ACC_WIDTH-1] ? {ACC_WIDTH{1'b0}} : value",
         "the sign is taken before the bias", when=lambda f: f.HAS_BIAS and f.HAS_RELU),
    Edit("relu-word-raw", "results.sv", "«RELU_BITS'(code)»", "RELU_BITS'(value)",
         "the ReLU stream carries accumulators", when=lambda f: f.HAS_RELU),
    Edit("accumulator-word-relu", "results.sv", "«ACCUMULATOR_BITS'(code)»",
         "ACCUMULATOR_BITS'(value[ACC_WIDTH-1] ? {ACC_WIDTH{1'b0}} : value)",
         "the accumulator stream carries ReLU values"),
    Edit("accumulator-zero-extended", "results.sv", "«ACCUMULATOR_BITS'(code)»", "ACCUMULATOR_BITS'($unsigned(code))",
         "the accumulator is not sign-extended to its word", when=lambda f: f.ACCUMULATOR_BITS > f.ACC_WIDTH),
    Edit("accumulator-narrow", "results.sv", _ACCUMULATOR, "ACC_WIDTH'($signed((ACC_WIDTH-1)'(sum)))",
         "the accumulator is a bit too narrow and wraps"),
    Edit("bias-missing", "results.sv", "sum = «v + ACC_WIDTH'(bias)»", "v", "no bias", when=lambda f: f.HAS_BIAS),
    Edit("bias-subtracted", "results.sv", "sum = «v + ACC_WIDTH'(bias)»", "v - ACC_WIDTH'(bias)", "bias subtracted",
         when=lambda f: f.HAS_BIAS),
    Edit("columns-reversed", "results.sv", _SUM, "data0[(COL-1-c)*ACC_WIDTH +: ACC_WIDTH]", "columns in reverse order",
         when=lambda f: f.COL > 1),
    Edit("column-stuck", "results.sv", _SUM, f"(c == 0 ? {{ACC_WIDTH{{1'b0}}}} : data0{_WIDTH})",
         "the sums of column 0 are stuck at 0"),
    Edit("sum-bit-stuck", "results.sv", _SUM, f"(data0{_WIDTH} | ACC_WIDTH'(c == 0))",
         "the lowest bit of column 0 is stuck at 1"),
    Edit("bias-tile", "results.sv", ".read(advance), .read_addr(«32'(next_ot0)»), .read_data(bias1)", "0",
         "the bias is that of the first tile", when=lambda f: f.HAS_BIAS and f.OC > f.COL),
    Edit("bias-late", "results.sv", ".write(bias_write), .write_addr(«bias_addr»)", "bias_addr + 1",
         "biases are written one address off", when=lambda f: f.HAS_BIAS and f.OC > f.COL),
)  # fmt: skip


def behind(stages: Sequence[Stage], streams: Sequence[str]) -> tuple[Edit, ...]:
    """The mutants of results.sv, the text of which follows from the steps and from the streams of results."""
    free = " && ".join(f"{name}_free" for name in streams)
    unheard = (
        Edit(f"{name}-unheard", "results.sv", f"moving = «{free}»;",
             " && ".join(f"{other}_free" for other in streams if other != name) or "1'b1",
             f"nobody waits for the stream {name}")
        for name in streams
    )  # fmt: skip
    steps = (edit for number, stage in enumerate(stages, 1) for edit in _of_step(number, stage))
    stuck = Edit("output-lane-stuck", "results.sv", "«OUTPUT_BITS'(code)»",
                 "(c == COL-1 ? {OUTPUT_BITS{1'b0}} : OUTPUT_BITS'(code))",
                 "the last lane of the output is stuck at 0")  # fmt: skip
    return (*_RESULTS, *steps, *([stuck] if "output" in streams else []), *unheard)


def _of_step(number: int, stage: Stage) -> Iterator[Edit]:
    """Mistakes that are made with a step."""
    width, value = stage.width, stage.value
    whole = f"{width}'(v)"

    def edit(
        name: str, new: str, what: str, old: str = f"next_data{number}[c*{width} +: {width}] = «{value}»;"
    ) -> Edit:
        return Edit(f"{stage.name}-{name}", "results.sv", old, new, f"step {stage.name}: {what}")

    match stage.step:
        case Multiply():
            yield edit("small", f"{value} - ({value} >>> 3)", "the product is an eighth too small")
        case Add() if stage.step.arrays["value"].any():
            yield edit("missing", whole, "nothing is added")
        case ShiftRight() if stage.step.arrays["by"].all():
            (line,) = (line for line in stage.lines if " below = " in line)
            amount = line.split(" >>> ")[1].removesuffix(";")
            yield edit("short", f"v >>> ({amount} - 1'b1)", "the shift is one short", f"below = «v >>> {amount}»;")
            if stage.step.round == "floor":
                yield edit("up", f"{value} + {width}'(1)", "it rounds up")
            else:
                yield edit("down", f"{width}'(below)", "it rounds down")
        case Relu() if stage.reach[0] < 0:
            yield edit("missing", whole, "negative values pass")
        case Clamp(low=low, high=high):
            if stage.reach[0] < low:
                yield edit("low-missing", value.replace("under ?", "1'b0 ?"), "small ones pass")
            if stage.reach[1] > high:
                yield edit("high-missing", value.replace("over ?", "1'b0 ?"), "large ones pass")
                yield edit("high-less", f"{value} - {width}'(over)", "what is clipped is one less")
        case Threshold():
            (line,) = (line for line in stage.lines if " <= wide)" in line)
            level = line[line.index("(") + 1 : line.index(" <= wide)")]
            yield edit("late", f"{level} < wide", "a level is reached one too late", f"if («{level} <= wide»)")
            yield edit("turned", f"~{value}", "codes fall")
        case Bias():
            yield edit("missing", whole, "no bias")


SHARED = (
    # --- pools ---
    Edit("pool-least", "max_pool.sv", "larger = x_opens[s] || «value > largest» ?", "value < largest",
         "the least along a row", when=lambda f: f.POOLS),
    Edit("pool-open-late", "max_pool.sv", "larger = «x_opens[s]» || value > largest ?", "1'b0",
         "the largest of a row is that of windows before, too", when=lambda f: f.POOLS),
    Edit("pool-rows-least", "max_pool.sv", "(row_opens[s] || «value > old»)", "value < old",
         "the least down the rows", when=lambda f: f.POOLS),
    Edit("pool-rows-old", "max_pool.sv", "(«row_opens[s]» || value > old)", "1'b0",
         "the largest down the rows is that of windows before, too", when=lambda f: f.POOLS),
    Edit("pool-last", "max_pool.sv", "next_last = «place_last && 32'(row_ot) == OT - 1»;", "place_last && 1'b0",
         "the last pooled word is not marked", when=lambda f: f.POOLS),
    Edit("pool-held-not", "max_pool.sv", "hold = valid && «!(row_ended ? y_leaves : !y_again && x_leaves)»;", "1'b0",
         "the word goes on while windows end that share it", when=lambda f: f.HELD),
    Edit("pool-turn", "pool_scan.sv", "closes[s] = covers[s] && «turn[s]» &&", "1'b1",
         "windows that share a last place end at once", when=lambda f: f.HELD),
    # --- streams ---
    Edit("beat-overwritten", "stream_out.sv", "free = «!tvalid || tready»;", "1'b1",
         "a beat that waits is overwritten by the next one"),
    Edit("beat-withdrawn", "stream_out.sv", "else if (advance) tvalid <= «valid»;", "valid && !tvalid",
         "of two beats in a row the second is dropped"),
    Edit("beat-doubled", "stream_out.sv", "else if («tready») tvalid <= 1'b0;", "1'b0",
         "a beat that was taken while another stream waits is offered again"),
    Edit("beat-lost-in-wait", "stream_out.sv", "else if («tready») tvalid <= 1'b0;", "1'b1",
         "a beat that waits is withdrawn while another stream waits"),
    Edit("data-moves-in-wait", "stream_out.sv", "if («advance && valid») begin", "1'b1",
         "data changes while it waits"),
    Edit("last-missing", "stream_out.sv", "tlast <= «last»;", "1'b0", "no last beat is marked"),
    Edit("last-always", "stream_out.sv", "tlast <= «last»;", "1'b1", "every beat is marked as the last",
         when=lambda f: f.OUTPUTS > 1),
    Edit("image-overrun", "stream_in.sv", "tready = «!full»;", "1'b1", "the next image is taken while one is computed",
         when=lambda f: f.IMAGES > 1),
    Edit("image-full-early", "stream_in.sv", "else if («write && last») full", "write && addr == WORDS - 2",
         "an image is full a word early", when=lambda f: f.PLACES > 1),
    Edit("image-never-cleared", "stream_in.sv", "if («rst || clear») full", "rst", "the second image is never taken",
         when=lambda f: f.IMAGES > 1),
    Edit("word-without-valid", "stream_in.sv", "write = «tvalid && tready»;", "tready",
         "words are taken when nothing is valid"),
    # --- memories, counters ---
    Edit("memory-write-always", "memory.sv", "if («write») words", "1'b1", "memories write without being asked"),
    Edit("memory-even", "memory.sv", "read_data <= words[«ADDR_BITS'(read_addr)»]",
         "ADDR_BITS'(read_addr & ~32'd1)", "the lowest bit of read addresses is stuck at 0"),
    Edit("axis-free", "axis.sv", "if («rst || (step && last)») count", "rst || last",
         "counters leave their last place without a step", when=lambda f: f.PLACES > 1),
)  # fmt: skip

IMAGE = (
    # --- the image and its padding ---
    Edit("padding-bottom", "input_buffer.sv", "in_plane <= «iy < IY && ix < IX»;", "iy <= IY && ix < IX",
         "the first row below the plane is not padding", when=lambda f: f.PAD_BOTTOM > 0),
    Edit("padding-right", "input_buffer.sv", "in_plane <= «iy < IY && ix < IX»;", "iy < IY && ix <= IX",
         "the first column right of the plane is not padding", when=lambda f: f.PAD_RIGHT > 0),
    Edit("padding-x", "input_buffer.sv", "in_plane <= «iy < IY && ix < IX»;", "iy < IY",
         "left and right of the plane is no padding", when=lambda f: f.PAD_LEFT + f.PAD_RIGHT > 0),
    Edit("padding-y", "input_buffer.sv", "in_plane <= «iy < IY && ix < IX»;", "ix < IX",
         "above and below the plane is no padding", when=lambda f: f.PAD_TOP + f.PAD_BOTTOM > 0),
    Edit("row-off-by-one", "input_buffer.sv", "iy = «py - PAD_TOP»;", "py - PAD_TOP + 1", "the plane is one row off"),
    Edit("row-without-padding", "input_buffer.sv", "iy = «py - PAD_TOP»;", "py", "the padding above is left out",
         when=lambda f: f.PAD_TOP > 0),
    Edit("column-off-by-one", "input_buffer.sv", "ix = «px - PAD_LEFT»;", "px - PAD_LEFT - 1",
         "the plane is a column too far right"),
    Edit("column-without-padding", "input_buffer.sv", "ix = «px - PAD_LEFT»;", "px", "the padding left is left out",
         when=lambda f: f.PAD_LEFT > 0),
    Edit("image-transposed", "input_buffer.sv", "word = «(ct * IY + iy) * IX + ix»;", "(ct * IX + ix) * IY + iy",
         "rows and columns of the image are swapped", when=lambda f: f.IY > 1 and f.IX > 1),
    Edit("image-address", "input_buffer.sv", "word = «(ct * IY + iy) * IX + ix»;", "(ct * IY + iy) * IX + ix + 1",
         "image words are read one address off", when=lambda f: f.IY * f.IX > 1),
    Edit("image-lanes-reversed", "input_buffer.sv", ".write_data(«write_data[r*BITS +: BITS]»)",
         "write_data[(ROW-1-r)*BITS +: BITS]", "input channels in reverse order", when=lambda f: f.ROW > 1),
    Edit("image-lane-stuck", "input_buffer.sv", "in_plane && used[r] ? «aligned[r*BITS +: BITS]»",
         "r == 0 ? {BITS{1'b0}} : aligned[r*BITS +: BITS]", "the lane of row 0 is stuck at 0"),
    Edit("image-high-bit", "input_buffer.sv", "in_plane && used[r] ? «aligned[r*BITS +: BITS]»",
         "{1'b0, aligned[r*BITS +: BITS-1]}", "the highest bit of the activations is lost",
         when=lambda f: f.INPUT_BITS > 1),
    Edit("padding-ones", "input_buffer.sv", "aligned[r*BITS +: BITS] : «BITS'(ZERO)»;", "{BITS{1'b1}}",
         "the padding is not 0", when=lambda f: f.PAD_TOP + f.PAD_BOTTOM + f.PAD_LEFT + f.PAD_RIGHT > 0),
    Edit("image-write-address", "input_buffer.sv", ".write_addr(«write_addr»)", "write_addr + 1",
         "image words are written one address off", when=lambda f: f.IY * f.IX > 1),
    Edit("input-tile-stale", "input_buffer.sv", "ct = GROUPS == 1 ? «it» :", "0",
         "only the first tile of input channels is read", when=lambda f: f.GROUPS == 1 and f.IC > f.ROW),
    Edit("group-turn", "input_buffer.sv", "turn = GROUPS == 1 ? 0 : «channel % ROW»;", "0",
         "a group's channels are not brought to row 0", when=lambda f: f.GROUPS > 1 and f.IC // f.GROUPS % f.ROW != 0),
)  # fmt: skip

WS = (
    # --- the element ---
    Edit("weight-unsigned", "ws_pe.sv", "weight = {«WEIGHT_SIGNED != 0 && weight_east[WEIGHT_BITS-1]», weight_east}",
         "1'b0", "weights are not sign-extended", when=lambda f: f.WEIGHT_SIGNED),
    Edit("activation-signed", "ws_pe.sv",
         "activation = {«INPUT_SIGNED != 0 && activation_west[INPUT_BITS-1]», activation_west}",
         "INPUT_SIGNED == 0 && activation_west[INPUT_BITS-1]", "activations have the other signedness"),
    Edit("product-unsigned", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;",
         "psum_north + SUM_BITS'($unsigned(product))", "products are not sign-extended to the psum",
         when=lambda f: f.WEIGHT_SIGNED or f.INPUT_SIGNED),
    Edit("product-narrow", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;",
         "psum_north + SUM_BITS'($signed((WEIGHT_BITS+INPUT_BITS-1)'(product)))", "products are a bit too narrow"),
    Edit("product-low-bit", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;",
         "psum_north + (SUM_BITS'(product) & ~SUM_BITS'(1))", "the lowest bit of products is lost"),
    Edit("psum-dropped", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;", "SUM_BITS'(product)",
         "the psum from the north is not added", when=lambda f: f.ROW > 1),
    Edit("psum-subtracted", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;",
         "psum_north - SUM_BITS'(product)", "products are subtracted"),
    Edit("psum-or", "ws_pe.sv", "psum_south <= «psum_north + SUM_BITS'(product)»;", "psum_north | SUM_BITS'(product)",
         "OR in place of the sum", when=lambda f: f.ROW > 1),
    Edit("weight-shifts-on", "ws_pe.sv", "if («shift_weight») weight_east", "1'b1",
         "weights move on while activations stream"),
    Edit("pe-ignores-wait", "ws_pe.sv", "if («advance») begin", "1'b1", "elements go on during a wait"),
    # --- the grid ---
    Edit("psum-columns", "ws_grid.sv", ".psum_north(«psum[r][c]»)", "psum[r][COL-1-c]",
         "psums go to the mirrored column", when=lambda f: f.ROW > 1 and f.COL > 1),
    Edit("psum-lane-stuck", "ws_grid.sv", ".psum_north(«psum[r][c]»)",
         "r == ROW-1 && c == COL-1 ? {SUM_BITS{1'b0}} : psum[r][c]", "the last element gets no psum",
         when=lambda f: f.ROW > 1),
    Edit("activation-rows", "ws_grid.sv", ".activation_west(«activation[r][c]»)", "activation[ROW-1-r][c]",
         "activations come to the mirrored row", when=lambda f: f.ROW > 1),
    Edit("activation-element-stuck", "ws_grid.sv", ".activation_west(«activation[r][c]»)",
         "r == 0 && c == COL-1 ? {INPUT_BITS{1'b0}} : activation[r][c]", "one element gets no activation"),
    Edit("weight-rows", "ws_grid.sv", "weight[r][0] = «weights[r*WEIGHT_BITS +: WEIGHT_BITS]»;",
         "weights[(ROW-1-r)*WEIGHT_BITS +: WEIGHT_BITS]", "weights come to the mirrored row", when=lambda f: f.ROW > 1),
    Edit("weight-stuck", "ws_grid.sv", ".weight_west(«weight[r][c]»)",
         "{weight[r][c][WEIGHT_BITS-1:1], weight[r][c][0] || r == ROW-1}", "a weight bit of the last row is stuck",
         when=lambda f: f.IC // f.GROUPS >= f.ROW),
    Edit("weight-order", "ws_grid.sv", ".weight_west(«weight[r][c]»)", "c == COL-1 ? weight[r][0] : weight[r][c]",
         "the last column gets the first column's weight", when=lambda f: f.COL > 1),
    Edit("psum-start", "ws_grid.sv", "psum[0][c] = «0»;", "1", "psums start at 1"),
    Edit("last-row-missing", "ws_grid.sv", "south[c*SUM_BITS +: SUM_BITS] = «psum[ROW][c]»;", "psum[ROW-1][c]",
         "the last row is left out"),
    Edit("skew-short", "skew.sv", "to[i*BITS +: BITS] = «line[(DELAY-1)*BITS +: BITS]»;",
         "line[(DELAY > 1 ? DELAY-2 : 0)*BITS +: BITS]", "lanes are delayed one cycle less",
         when=lambda f: f.ROW > 2 or f.COL > 2),
    Edit("skew-none", "skew.sv", "to[i*BITS +: BITS] = «line[(DELAY-1)*BITS +: BITS]»;", "from[i*BITS +: BITS]",
         "lanes are not delayed", when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("skew-last-lane", "skew.sv", "to[i*BITS +: BITS] = «line[(DELAY-1)*BITS +: BITS]»;",
         "i == LANES-1 ? from[i*BITS +: BITS] : line[(DELAY-1)*BITS +: BITS]", "the last lane is not delayed",
         when=lambda f: f.ROW > 1),
    Edit("skew-ignores-wait", "skew.sv", "if («advance») line", "1'b1", "delays go on while the array waits",
         when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("memory-reads-in-wait", "memory.sv", "if («read») read_data", "1'b1", "memories read on during a wait"),
    # --- which psum meets which output ---
    Edit("tap-place", "tap_scan.sv", "gap <= «BITS'(tap * DILATION)»;", "BITS'(tap * DILATION + 1)",
         "psums meet the output one place late"),
    Edit("tap-undilated", "tap_scan.sv", "gap <= «BITS'(tap * DILATION)»;", "BITS'(tap)", "the dilation is left out",
         when=lambda f: (f.DILATION_Y > 1 and f.KH > 1) or (f.DILATION_X > 1 and f.KW > 1)),
    Edit("stride-long", "tap_scan.sv", "gap <= gap == 0 ? «BITS'(STRIDE - 1)» :", "BITS'(STRIDE)",
         "the stride is one too long", when=lambda f: f.OUTPUTS > 1),
    Edit("outputs-too-many", "tap_scan.sv", "meets = gap == 0 && «out < OUT»;", "out <= OUT",
         "a psum past the last output is added",
         when=lambda f: f.KW > 1 and f.OX * f.STRIDE_X - f.PAD_LEFT < f.IX and f.OUTPUTS > f.OX),
    Edit("row-not-restarted", "tap_scan.sv", "if («restart || (step && last)») begin", "restart",
         "the scan does not start again behind a row", when=lambda f: f.OUTPUTS > 1),
    Edit("tap-stale", "tap_scan.sv", "if («restart || (step && last)») begin", "step && last",
         "the first row still has the tap before", when=lambda f: f.KH * f.KW > 1),
    Edit("output-counts-on", "tap_scan.sv", "if («gap == 0») count", "1'b1", "outputs are counted at every place",
         when=lambda f: f.KH * f.KW > 1 or f.STRIDE_X * f.STRIDE_Y > 1),
    # --- controller ---
    Edit("tap-order", "ws_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((ot * IT + it) * KW + kw) * KH + kh", "taps column by column", when=lambda f: f.KH > 1 and f.KW > 1),
    Edit("tap-mirrored", "ws_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((ot * IT + it) * KH + KH - 1 - kh) * KW + KW - 1 - kw", "the kernel is turned by 180 degrees",
         when=lambda f: f.KH * f.KW > 1),
    Edit("tile-order", "ws_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((it * OT + ot) * KH + kh) * KW + kw", "input tiles are read as output tiles",
         when=lambda f: f.OC > f.COL and f.IC // f.GROUPS > f.ROW),
    Edit("weight-columns", "ws_array.sv", ".read_addr(«tap * COL + COL - 1 - col»)", "tap * COL + col",
         "columns of weights in reverse order", when=lambda f: f.COL > 1),
    Edit("weight-address", "ws_array.sv", ".read_addr(«tap * COL + COL - 1 - col»)", "tap * COL + COL - col",
         "weights are read one address off"),
    Edit("weight-write-address", "ws_array.sv", ".write(weight_write), .write_addr(«weight_addr»)", "weight_addr + 1",
         "weights are written one address off"),
    Edit("weight-shift-short", "ws_array.sv", "shift_weight <= «weighting»;", "weighting && col != 0",
         "weights are shifted once too little"),
    Edit("weights-stale", "ws_array.sv", "shift_weight <= «weighting»;", "weighting && kw == 0",
         "the weights of the first tap of a row stay", when=lambda f: f.KW > 1),
    Edit("pass-ends-early", "ws_array.sv", "state == DRAIN && «in_flight == 0»;", "in_flight[LATENCY-2:0] == 0",
         "a pass ends before its last sum is added"),
    Edit("stream-ends-early", "ws_array.sv", "STREAM:  if («row_done && py_last») state", "row_done",
         "a pass ends after the first row", when=lambda f: f.OUTPUTS > 1),
    Edit("psums-early", "ws_array.sv", "arrives = «advance && in_flight[LATENCY-1]»;",
         "advance && in_flight[LATENCY-2]", "psums are taken a cycle early"),
    Edit("arrives-in-wait", "ws_array.sv", "arrives = «advance && in_flight[LATENCY-1]»;", "in_flight[LATENCY-1]",
         "psums are counted while the array waits"),
    Edit("never-cleared", "ws_array.sv", "first_pass = «it == 0 && kh == 0 && kw == 0»;", "1'b0",
         "accumulators start with what was there", when=lambda f: f.IMAGES > 1 or f.OC > f.COL),
    Edit("cleared-each-row", "ws_array.sv", "first_pass = «it == 0 && kh == 0 && kw == 0»;", "it == 0 && kw == 0",
         "accumulators start anew with each row of taps", when=lambda f: f.KH > 1),
    Edit("cleared-each-tile", "ws_array.sv", "first_pass = «it == 0 && kh == 0 && kw == 0»;", "kh == 0 && kw == 0",
         "accumulators start anew with each tile", when=lambda f: f.IC // f.GROUPS > f.ROW),
    Edit("results-each-row", "ws_array.sv", "last_pass = «it_last && kh_last && kw_last»;", "it_last && kw_last",
         "results leave after the first row of taps", when=lambda f: f.KH > 1),
    Edit("sum-address", "ws_array.sv", "address <= «oy * OX + ox»;", "oy * OX + ox + 1",
         "sums are written one address off", when=lambda f: f.OUTPUTS > 1),
    Edit("sum-read-address", "ws_array.sv", ".read_addr(«oy * OX + ox»)", "oy * OX + ox + 1",
         "sums are read one address off", when=lambda f: f.OUTPUTS > 1 and f.KH * f.KW > 1),
    Edit("meets-any-row", "ws_array.sv", "meets <= «meets_y && meets_x»;", "meets_x", "psums of every row are added",
         when=lambda f: f.KH > 1),
    Edit("meets-any-column", "ws_array.sv", "meets <= «meets_y && meets_x»;", "meets_y",
         "psums of every column are added", when=lambda f: f.KW > 1),
    Edit("adds-all", "ws_array.sv", "add = «advance && psum_valid && meets»;", "advance && psum_valid",
         "psums that meet no output are added", when=lambda f: f.KH * f.KW > 1),
    Edit("psum-unheard", "ws_array.sv", "advance = «psum_free && results_free»;", "results_free",
         "nobody waits for the psum stream"),
    Edit("results-unheard", "ws_array.sv", "advance = «psum_free && results_free»;", "psum_free",
         "nobody waits for the results"),
    Edit("psum-lanes", "ws_array.sv", "psum_word[c*PSUM_BITS +: PSUM_BITS] = «psum[c*SUM_BITS +: PSUM_BITS]»;",
         "psum[(COL-1-c)*SUM_BITS +: PSUM_BITS]", "psums leave in reverse order", when=lambda f: f.COL > 1),
    Edit("psum-last-each-pass", "ws_array.sv",
         "psum_last <= «ot_last && last_pass && psum_py_last && psum_px_last»;",
         "ot_last && psum_py_last && psum_px_last", "every pass ends with a last beat", when=lambda f: f.KH * f.KW > 1),
    Edit("sum-last-each-row", "ws_array.sv", "sum_last <= «ot_last && oy == OY - 1 && ox == OX - 1»;",
         "ot_last && ox == OX - 1", "every row ends with a last beat", when=lambda f: f.OUTPUTS > 1),
)  # fmt: skip

ELEMENTS = (  # output-stationary
    # --- the element ---
    Edit("weight-unsigned", "os_pe.sv", "weight = {«WEIGHT_SIGNED != 0 && weight_north[WEIGHT_BITS-1]», weight_north}",
         "1'b0", "weights are not sign-extended", when=lambda f: f.WEIGHT_SIGNED),
    Edit("activation-signed", "os_pe.sv",
         "activation = {«INPUT_SIGNED != 0 && activation_west[INPUT_BITS-1]», activation_west}",
         "INPUT_SIGNED == 0 && activation_west[INPUT_BITS-1]", "activations have the other signedness"),
    Edit("product-unsigned", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "sum_north + SUM_BITS'($unsigned(product))", "products are not sign-extended to the sum",
         when=lambda f: (f.WEIGHT_SIGNED or f.INPUT_SIGNED) and f.ACC_WIDTH > f.WEIGHT_BITS + f.INPUT_BITS + 2),
    Edit("product-narrow", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "sum_north + SUM_BITS'($signed((WEIGHT_BITS+INPUT_BITS-1)'(product)))", "products are a bit too narrow"),
    Edit("product-low-bit", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "sum_north + (SUM_BITS'(product) & ~SUM_BITS'(1))", "the lowest bit of products is lost"),
    Edit("sum-dropped", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;", "SUM_BITS'(product)",
         "elements do not accumulate"),
    Edit("sum-subtracted", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "sum_north - SUM_BITS'(product)", "products are subtracted"),
    Edit("sum-or", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "sum_north | SUM_BITS'(product)", "OR in place of the sum", when=lambda f: f.TERMS > 1),
    Edit("sum-narrow", "os_pe.sv", "shift_sum ? sum_south : «sum_north + SUM_BITS'(product)»;",
         "SUM_BITS'($signed((SUM_BITS-1)'(sum_north + SUM_BITS'(product))))", "the sum is a bit too narrow",
         when=lambda f: not f.HAS_ADDEND),
    Edit("sum-shift-adds", "os_pe.sv", "shift_sum ? «sum_south» :", "sum_south + SUM_BITS'(1)",
         "sums that move out grow by 1"),
    # --- the grid and its edges ---
    Edit("weight-columns", "os_grid.sv", ".weight_north(«weight[r][c]»)", "weight[r][COL-1-c]",
         "weights go to the mirrored column", when=lambda f: f.COL > 1),
    Edit("weight-element-stuck", "os_grid.sv", ".weight_north(«weight[r][c]»)",
         "r == ROW-1 && c == 0 ? {WEIGHT_BITS{1'b0}} : weight[r][c]", "one element gets no weight",
         when=lambda f: f.OUTPUTS >= f.ROW),
    Edit("activation-rows", "os_grid.sv", ".activation_west(«activation[r][c]»)", "activation[ROW-1-r][c]",
         "activations come to the mirrored row", when=lambda f: f.ROW > 1),
    Edit("activation-element-stuck", "os_grid.sv", ".activation_west(«activation[r][c]»)",
         "r == 0 && c == COL-1 ? {INPUT_BITS{1'b0}} : activation[r][c]", "one element gets no activation",
         when=lambda f: f.OC >= f.COL),
    Edit("sum-columns", "os_grid.sv", ".sum_south(«sum[r+1][c]»)", "sum[r+1][COL-1-c]",
         "sums move to the mirrored column", when=lambda f: f.ROW > 1 and f.COL > 1),
    Edit("sum-lane-stuck", "os_grid.sv", ".sum_south(«sum[r+1][c]»)",
         "r == 0 && c == 0 ? {SUM_BITS{1'b0}} : sum[r+1][c]", "column 0 delivers row 0 only",
         when=lambda f: f.ROW > 1 and f.OUTPUTS > 1),
    Edit("sum-start", "os_grid.sv", "sum[ROW][c] = «0»;", "1", "sums start at 1 in the second tile",
         when=lambda f: f.IMAGES > 1 or f.OUTPUTS > f.ROW or f.OC > f.COL),
    Edit("row-skipped", "os_grid.sv", "sums[c*SUM_BITS +: SUM_BITS] = «sum[0][c]»;", "sum[ROW > 1 ? 1 : 0][c]",
         "results are those of the next row", when=lambda f: f.ROW > 1 and f.OUTPUTS > 1),
    Edit("weight-lanes", "os_grid.sv", "weight[0][c] = «weights[c*WEIGHT_BITS +: WEIGHT_BITS]»;",
         "c == COL-1 ? weights[0 +: WEIGHT_BITS] : weights[c*WEIGHT_BITS +: WEIGHT_BITS]",
         "the last column gets the first column's weights", when=lambda f: f.COL > 1),
    Edit("skew-none", "feeder.sv", "left <= «valid && slot == i» ?", "valid && slot == 0", "lines are not skewed",
         when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("skew-by-one", "feeder.sv", "left <= «valid && slot == i» ?", "valid && slot == (i + 1) % LINES",
         "lines are skewed by one more",
         when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("lines-reversed", "feeder.sv", "left <= «valid && slot == i» ?", "valid && slot == LINES - 1 - i",
         "lines in reverse order",
         when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("feeder-stuck", "feeder.sv", "? word : «left >> BITS»;", "left", "lines send row 0's code again and again",
         when=lambda f: f.ROW > 1),
    Edit("feeder-double-step", "feeder.sv", "? word : «left >> BITS»;", "left >> (2 * BITS)", "lines skip lanes",
         when=lambda f: f.ROW > 1),
    Edit("feeder-last-lane", "feeder.sv", "codes[i*BITS +: BITS] = «left[BITS-1:0]»;", "left[(LANES-1)*BITS +: BITS]",
         "lines send the last lane", when=lambda f: f.ROW > 1),
)  # fmt: skip

OS = (
    Edit("feeder-reloads", "feeder.sv", "left <= «valid && slot == i» ?", "slot == i",
         "lines take words that were not asked for", when=_starts_inside),
    # --- controller ---
    Edit("settle-short", "os_array.sv", "SETTLE:  if («settled») state", "unused_wait == SETTLING - 2 - COL / 2",
         "sums move out before the last products"),
    Edit("settle-none", "os_array.sv", "SETTLE:  if («settled») state", "1'b1",
         "sums move out without waiting for the last products"),
    Edit("drain-short", "os_array.sv", "tile_done = draining && «row_last»;", "unused_row == ROW - 2",
         "the last row is not moved out", when=lambda f: f.ROW > 1),
    Edit("stream-ends-early", "os_array.sv", "STREAM:  if («stream_done») state", "tap_done && kw_last",
         "a tile ends after the first row of taps", when=lambda f: f.KH > 1),
    Edit("drain-in-wait", "os_array.sv", "draining = «advance && state == DRAIN»;", "state == DRAIN",
         "rows are counted while the array waits"),
    Edit("stream-in-wait", "os_array.sv", "streaming = «advance && state == STREAM»;", "state == STREAM",
         "slots are counted while the array waits", when=lambda f: f.IMAGES > 1 or f.OUTPUTS > f.ROW or f.OC > f.COL),
    Edit("row-long", "os_array.sv", "ox_last = «32'(ox) == OX - 1»;", "32'(ox) == OX", "output rows are one too long",
         when=lambda f: f.OUTPUTS > 1),
    Edit("row-short", "os_array.sv", "ox_last = «32'(ox) == OX - 1»;", "32'(ox) == OX - 2",
         "output rows are one too short", when=lambda f: f.OUTPUTS > 1),
    Edit("past-the-last", "os_array.sv", "exists = «32'(oy) < OY»;", "1'b1", "positions past the last are delivered",
         when=lambda f: f.OUTPUTS % f.ROW != 0),
    Edit("positions-late", "os_array.sv", "positions_done = «32'(next_oy) >= OY»;", "32'(next_oy) > OY",
         "a tile of positions too many"),
    Edit("positions-not-rewound", "os_array.sv", "else if (tap_done) {oy, ox} <= «{first_oy, first_ox}»;", "{oy, ox}",
         "the next tap begins where the last one ended"),
    Edit("tile-not-kept", "os_array.sv", "if («tile_done») {first_oy, first_ox}", "1'b0",
         "every tile begins with the first position", when=lambda f: f.OUTPUTS > f.ROW),
    Edit("tap-order", "os_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((ot * IT + it) * KW + kw) * KH + kh", "taps column by column", when=lambda f: f.KH > 1 and f.KW > 1),
    Edit("tap-mirrored", "os_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((ot * IT + it) * KH + KH - 1 - kh) * KW + KW - 1 - kw", "the kernel is turned by 180 degrees",
         when=lambda f: f.KH * f.KW > 1),
    Edit("tile-order", "os_array.sv", "tap = «((ot * IT + it) * KH + kh) * KW + kw»;",
         "((it * OT + ot) * KH + kh) * KW + kw", "input tiles are read as output tiles",
         when=lambda f: f.OC > f.COL and f.IC // f.GROUPS > f.ROW),
    Edit("weight-address", "os_array.sv", ".read_addr(«tap * COL + slot»)", "tap * COL + slot + 1",
         "weights are read one address off"),
    Edit("weight-order", "os_array.sv", ".read_addr(«tap * COL + slot»)", "tap * COL + COL - 1 - slot",
         "columns of weights in reverse order", when=lambda f: f.COL > 1),
    Edit("weight-write-address", "os_array.sv", ".write(weight_write), .write_addr(«weight_addr»)", "weight_addr + 1",
         "weights are written one address off"),
    Edit("slot-late", "os_array.sv", "read_slot <= «slot»;", "slot + 1", "words go to the next line",
         when=lambda f: f.ROW > 1 or f.COL > 1),
    Edit("read-always", "os_array.sv", "read_valid <= «streaming»;", "1'b1", "words are fed while none was asked for",
         when=_starts_inside),
    Edit("kernel-row", "os_array.sv", ".py(«32'(oy) * STRIDE_Y + kh * DILATION_Y»)",
         "32'(oy) * STRIDE_Y + kw * DILATION_Y", "the row of the tap is its column",
         when=lambda f: f.KH > 1 or f.KW > 1),
    Edit("row-place", "os_array.sv", ".py(«32'(oy) * STRIDE_Y + kh * DILATION_Y»)",
         "32'(oy) * STRIDE_Y + kh * DILATION_Y + 1", "the input row is one off"),
    Edit("unstrided", "os_array.sv", ".px(«32'(ox) * STRIDE_X + kw * DILATION_X»)", "32'(ox) + kw * DILATION_X",
         "the stride is left out", when=lambda f: f.STRIDE_X > 1 and f.OUTPUTS > 1),
    Edit("column-place", "os_array.sv", ".px(«32'(ox) * STRIDE_X + kw * DILATION_X»)",
         "32'(ox) * STRIDE_X + kw * DILATION_X + 1", "the input column is one off"),
    Edit("last-each-tile", "os_array.sv", "sums_last = «ot_last && positions_done»;", "ot_last",
         "every result of the last tile is marked as the last", when=lambda f: f.OUTPUTS > 1),
    Edit("last-position-missing", "os_array.sv", "sums_valid = «draining && exists»;",
         "draining && exists && !positions_done", "the last position is not delivered"),
    Edit("results-unheard", "os_array.sv", "advance = «results_free»;", "1'b1", "nobody waits for the results"),
)  # fmt: skip

PRODUCT = (
    Edit("settle-none", "os_product.sv", "SETTLE:  if («settled») state", "1'b1",
         "sums move out without waiting for the last products"),
    Edit("settle-short", "os_product.sv", "SETTLE:  if («settled») state", "unused_wait == SETTLING - 3",
         "sums move out before the last products"),
    Edit("drain-short", "os_product.sv", "DRAIN:   if («row_last») state", "row == ROW - 2",
         "the last row is not moved out", when=lambda f: f.ROW > 1),
    Edit("give-short", "os_product.sv", "GIVE:    if («given_row_last && given_pt_last») state", "given_pt_last",
         "only the first row of a tile is given", when=lambda f: f.ROW > 1 and f.M > 1),
    Edit("stream-ends-early", "os_product.sv", "STREAM:  if («slot_last && kt_last») state", "slot_last",
         "a tile ends after the first terms", when=lambda f: f.K > f.ROW),
    Edit("row-address", "os_product.sv", ".read_addr(«m * KT + kt»)", "m * KT", "the first terms come again",
         when=lambda f: f.K > f.ROW),
    Edit("column-address", "os_product.sv", ".read_addr(«pt * K + k»)", "pt * K + k + 1",
         "terms of input2 are read one address off", when=lambda f: f.K > 1),
    Edit("buffer-address", "os_product.sv", ".write_addr(«row * PT + pt»)", "row * PT",
         "tiles of columns overwrite each other", when=lambda f: f.OC > f.COL),
    Edit("buffer-transposed", "os_product.sv", ".read_addr(«given_row * PT + given_pt»)", "given_pt * ROW + given_row",
         "the buffer is read column by column", when=lambda f: f.OC > f.COL and f.ROW > 1),
    Edit("past-the-last", "os_product.sv", "exists <= «giving && given_m < M»;", "giving",
         "rows past the last are given", when=lambda f: f.M % f.ROW != 0),
    Edit("tile-stuck", "os_product.sv", "m = «mt * ROW + slot»;", "slot", "every tile has the first rows",
         when=lambda f: f.M > f.ROW),
    Edit("last-each-row", "os_product.sv", "last <= «given_m == M - 1 && given_pt_last»;", "given_pt_last",
         "every row ends with a last beat", when=lambda f: f.M > 1),
    Edit("tile-of-results", "os_product.sv", "ot <= «given_pt»;", "0", "results count as the first columns",
         when=lambda f: f.OC > f.COL and f.NUMBERS),
    Edit("terms-late", "os_product.sv", "input2_asked <= «streaming && k < K»;", "streaming && k + 1 < K",
         "the last term is left out"),
    Edit("stream-in-wait", "os_product.sv", "streaming = «advance && state == STREAM»;", "state == STREAM",
         "slots are counted while the array waits", when=lambda f: f.IMAGES > 1 or f.M > f.ROW),
    Edit("results-unheard", "os_product.sv", "advance = «results_free»;", "1'b1", "nobody waits for the results"),
    Edit("zero-left", "integers.sv", "- «OUT_BITS'(ZERO)»;", "0", "zero points are not taken off",
         when=lambda f: f.INPUT_ZERO or f.INPUT2_ZERO),
    Edit("skew-less", "skew.sv", "to[i*BITS +: BITS] = «line[(DELAY-1)*BITS +: BITS]»;", "from[i*BITS +: BITS]",
         "columns are not delayed", when=lambda f: f.COL > 1),
    Edit("addend-missing", "results.sv", "sum = v + «ACC_WIDTH'(addend)»", "0", "no addend",
         when=lambda f: f.HAS_ADDEND),
)  # fmt: skip

EDITS = {"ws": (*SHARED, *IMAGE, *WS), "os": (*SHARED, *IMAGE, *ELEMENTS, *OS)}
PRODUCT_EDITS = (*SHARED, *ELEMENTS, *PRODUCT)
