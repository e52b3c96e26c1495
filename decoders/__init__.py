"""Decoding strategies, one file each: card, options, mathematics."""

from mmhall.strategies import STRATEGIES as STRATEGIES

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.decoders, not decoders: a second name would make a second copy of every class")

BUILT_IN = {
    "greedy": "mmhall.decoders.greedy:Greedy",
    "beam": "mmhall.decoders.beam:Beam",
    "apc": "mmhall.decoders.apc:APC",
    "brief": "mmhall.decoders.brief:Brief",
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
    "kvsmooth": "mmhall.decoders.kvsmooth:KVSmooth",
    "memvr": "mmhall.decoders.memvr:MemVR",
    "only": "mmhall.decoders.only:Only",
    "icd": "mmhall.decoders.icd:ICD",
    "deco": "mmhall.decoders.deco:DeCo",
    "flb": "mmhall.decoders.flb:FLB",
    "resdec": "mmhall.decoders.resdec:ResDec",
    "rudder": "mmhall.decoders.rudder:RUDDER",
    "acg": "mmhall.decoders.acg:ACG",
    "adhh": "mmhall.decoders.adhh:ADHH",
    "adaiat": "mmhall.decoders.adaiat:AdaIAT",
    "allpath": "mmhall.decoders.allpath:AllPath",
    "iat": "mmhall.decoders.iat:IAT",
    "vista": "mmhall.decoders.vista:VISTA",
    "vti": "mmhall.decoders.vti:VTI",
    "revis": "mmhall.decoders.revis:REVIS",
    "nullu": "mmhall.decoders.nullu:Nullu",
    "halc": "mmhall.decoders.halc:HALC",
    "debiased-pruning": "mmhall.decoders.debiased_pruning:DebiasedPruning",
    "recomputed": "mmhall.decoders.recomputed:Recomputed",
}
