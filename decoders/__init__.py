"""Decoding strategies, one file each: card, options, mathematics."""

from mmhall.strategies import STRATEGIES as STRATEGIES

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.decoders, not decoders: a second name would make a second copy of every class")

BUILT_IN = {
    "greedy": "mmhall.decoders.greedy:Greedy",
    "beam": "mmhall.decoders.beam:Beam",
    "apc": "mmhall.decoders.apc:APC",
    "yes-prompt": "mmhall.decoders.yes_prompt:YesPrompt",
    "yes-shift": "mmhall.decoders.yes_shift:YesShift",
    "olm": "mmhall.decoders.olm:OLM",
    "self-verify": "mmhall.decoders.self_verify:SelfVerify",
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
}
