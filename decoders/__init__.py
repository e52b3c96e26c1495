"""Decoding strategies, one file each: card, options, mathematics."""

from mmhall.strategies import STRATEGIES as STRATEGIES

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.decoders, not decoders: a second name would make a second copy of every class")

BUILT_IN = {
    "greedy": "mmhall.decoders.greedy:Greedy",
    "beam": "mmhall.decoders.beam:Beam",
    "vcd": "mmhall.decoders.vcd:VCD",
    "vdd": "mmhall.decoders.vdd:VDD",
    "opera": "mmhall.decoders.opera:Opera",
    "vhr": "mmhall.decoders.vhr:VHR",
    "gift": "mmhall.decoders.gift:GIFT",
    "var": "mmhall.decoders.var:VAR",
    "pai": "mmhall.decoders.pai:PAI",
    "vaf": "mmhall.decoders.vaf:VAF",
    "cgd": "mmhall.decoders.cgd:CGD",
    "dola": "mmhall.decoders.dola:DoLa",
    "m3id": "mmhall.decoders.m3id:M3ID",
    "sid": "mmhall.decoders.sid:SID",
    "rudder": "mmhall.decoders.rudder:RUDDER",
    "halc": "mmhall.decoders.halc:HALC",
}
