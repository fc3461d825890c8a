"""The ports of a post-processing module get their roles by the names that designs in circulation use."""

import pytest

from qexport.bench.interface import Port
from qexport.bench.ports import Module
from qexport.bench.post import match_ports
from qexport.errors import QexportError


def module(text: str) -> Module:
    """A module of ports such as `>acc:16s` (an input of 16 bits, signed) and `<q:8`."""
    ports = {}
    for port in text.split():
        name, _, bits = port[1:].partition(":")
        direction = {">": "input", "<": "output"}[port[0]]
        ports[name] = "post.sv:1", Port(direction, int(bits.rstrip("s") or 1), bits.endswith("s"))
    return Module("post", "post.sv:1", ports)


NAMES = {
    ">clk >rst_n >in_valid >in_data:32s >in_ch:4 <out_valid <out_data:8s":
        "clock=clk reset_n=rst_n value=in_data channel=in_ch valid_in=in_valid code=out_data valid_out=out_valid",
    ">aclk >aresetn >s_axis_tvalid <s_axis_tready >s_axis_tdata:32 >s_axis_tuser:4 <m_axis_tvalid >m_axis_tready "
    "<m_axis_tdata:8":
        "clock=aclk reset_n=aresetn value=s_axis_tdata channel=s_axis_tuser valid_in=s_axis_tvalid "
        "ready_in=s_axis_tready code=m_axis_tdata valid_out=m_axis_tvalid ready_out=m_axis_tready",
    ">clk_i >rst_ni >acc_i:24s >channel_i:4 <code_o:8s":
        "clock=clk_i reset_n=rst_ni value=acc_i channel=channel_i code=code_o",
    ">sys_clk >sys_rst >psumIn:24s >outChannel:4 <quantOut:8s <q:8":
        "clock=sys_clk reset=sys_rst value=psumIn channel=outChannel code=q",
    ">i_x:20s >i_oc:4 <o_y:8s": "value=i_x channel=i_oc code=o_y",
    ">din:32 >idx:4 <dout:8": "value=din channel=idx code=dout",
    ">conv_acc:32 >sel_ch:4 <relu_q:8 <busy": "value=conv_acc channel=sel_ch code=relu_q",
}  # fmt: skip


@pytest.mark.parametrize("ports", NAMES)
def test_usual_names(ports: str) -> None:
    found = match_ports(module(ports), {}, (-1000, 1000), 10, False, (-128, 127))
    assert " ".join(f"{role}={name}" for role, name in found.of.items()) == NAMES[ports]
    assert set(found.unread) == set(found.module.ports) - set(found.of.values())


def test_a_name_that_is_given_goes_before_a_usual_one() -> None:
    ports = module(">acc:16s >raw:16s >ch:4 <q:8 <y:8")
    for given, said in (
        ({"code": "q"}, ("raw", "acc value")),
        ({"code": "q", "value": "raw"}, ("acc", "raw value")),
        ({"code": "y", "value": "raw", "channel": "acc"}, ("ch", "acc channel")),
    ):
        with pytest.raises(QexportError) as caught:
            match_ports(ports, given, (0, 9), 2, False, (0, 9))
        first, header, stray, *others = [" ".join(row.split()) for row in str(caught.value).splitlines()]
        assert first.startswith("dut: post.sv:1: module post: 1 port cannot be used; name a port with --port ROLE=NAME")
        assert header == "port role fault"
        kind = "[3:0] ch" if said[0] == "ch" else f"signed [15:0] {said[0]}"
        assert stray == f"input {kind} - has no role: wrap the module in one that connects it"
        assert f"input signed [15:0] {said[1]}" in others
        assert len(others) == 4
    with pytest.raises(QexportError, match=r"q +code +may be code, as 1 more may\n.*y +code +may be"):
        match_ports(ports, {}, (0, 9), 2, False, (0, 9))


@pytest.mark.parametrize(
    ("bits", "values", "codes", "said"),
    [
        ("16s", (-32768, 32767), (0, 255), None),
        ("16", (0, 65535), (0, 255), None),
        ("16s", (0, 40000), (0, 255), "acc +value +has 16 bits and is signed, .* take 17 signed bits"),
        ("16", (-1, 40000), (0, 255), "acc +value +has 16 bits, .* take 17 signed bits"),
        ("16", (0, 9), (-1, 255), "q +code +has 8 bits, codes reach -1..255, which take 9 signed bits"),
        ("16", (0, 9), (0, 256), "q +code +has 8 bits, codes reach 0..256, which take 9 bits"),
    ],
)
def test_widths(bits: str, values: tuple[int, int], codes: tuple[int, int], said: str | None) -> None:
    ports = module(f">acc:{bits} <q:8")
    if said is None:
        assert match_ports(ports, {}, values, 3, True, codes).code.bits == 8
        return
    with pytest.raises(QexportError, match=said):
        match_ports(ports, {}, values, 3, True, codes)


def test_a_code_port_is_read_as_the_codes_are() -> None:
    assert match_ports(module(">acc:16 <q:8"), {}, (0, 9), 1, True, (-128, 127)).code.signed
    assert not match_ports(module(">acc:16 <q:8"), {}, (0, 9), 1, True, (0, 127)).code.signed
    assert match_ports(module(">acc:16 <q:8s"), {}, (0, 9), 1, True, (0, 127)).code.signed
    with pytest.raises(QexportError, match=r"has 8 bits and is signed, codes reach 0\.\.255, which take 9 signed bits"):
        match_ports(module(">acc:16 <q:8s"), {}, (0, 9), 1, True, (0, 255))
