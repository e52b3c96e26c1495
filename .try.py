import torch, mmhall, time, random, sys
from transformers import AutoProcessor
from mmhall.loading import EMBEDDED
from mmhall.lvlm import LVLM
from mmhall.adapters.base import Request
from mmhall.generation.run import prepared
from mmhall.generation.branches import Rows
from mmhall.generation.settings import Settings
from mmhall.decoders.opera import Opera, Retrospection
from tests.conftest import make_random_llava
from tests.attention.reference import Eager, pictures
from tests.decoders.opera_reference import Reference
proc = AutoProcessor.from_pretrained(EMBEDDED)
pics = pictures()
def ours(lvlm, inputs, opt, beams, longest, ends):
    cfg = Settings(max_new_tokens=longest, num_beams=beams).resolved(lvlm.model)
    cfg.eos_token_id = list(ends) or None
    with torch.inference_mode():
        ad=lvlm.adapter; session=opt.prepare(ad, inputs); main=prepared(ad, inputs, cfg)
        rows=Rows(main, (), ad.plan(session.ops))
        s=Retrospection(opt, session.ops[0], main, rows, session, cfg, 0)
        s.run(); return s
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    rnd=random.Random(seed)
    lvlm=LVLM(make_random_llava(proc, seed=seed), proc, "r"); eager=Eager(lvlm.adapter)
    inputs=lvlm.adapter.inputs([Request("What is this?", (pics[seed%2],))])
    opt=Opera(num_attn_candidates=rnd.choice([1,2,3,5]), penalty_weights=rnd.choice([0.,1.,5.]), scale_factor=rnd.choice([30.,50.,100.,200., 400.]), threshold=rnd.choice([1,2,3]), window=rnd.choice([4,512]), compat_fp16=rnd.random()<.3)
    beams=rnd.choice([2,3,4]); ends=tuple(rnd.sample(range(300), 6)) if rnd.random()<.4 else ()
    t=time.time(); s=ours(lvlm, inputs, opt, beams, 28, ends); a=time.time()-t
    t=time.time(); ref=Reference(lvlm.adapter, eager, inputs, opt, beams, 28, ends); r=ref.run(); b=time.time()-t
    f=s.beams.finished()
    same=[x for _,x in f]==[list(x) for _,x in r]; d=max(abs(x[0]-y[0]) for x,y in zip(f,r))
    print(seed, str(opt), beams, len(ends), "SAME" if same else "DIFF", f"{d:.1e}", "backs", ref.backs, dict(s.tries), f"{a:.2f} {b:.2f}", flush=True)
