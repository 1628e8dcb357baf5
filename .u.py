import torch, sys
from tests.models.engine_models import *
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.training.build import _checkpoint_activations
import numpy as np
def run(variant, dtype, ck=False, **ch):
    from tests.models.engine_models import VARIANTS
    fam, c = VARIANTS[variant]; VARIANTS["_"]=(fam, c|ch)
    m=random_model("_",dtype=dtype, blocks=ch.get("num_hidden_layers",2), r=8)
    from quatrain.adapters import adapter_parameters
    for p in adapter_parameters(m).values(): p.requires_grad_(True)
    m.train()
    if ck: _checkpoint_activations(m)
    o=AutogradObjective(m)
    T=256
    smp=samples(lengths=(T,)) 
    b=batch_of(smp)
    seen={}
    params={p.untyped_storage().data_ptr() for p in m.parameters()}|{b_.untyped_storage().data_ptr() for b_ in m.buffers()}
    def pack(t):
        st=t.untyped_storage()
        if st.data_ptr() not in params: seen[st.data_ptr()]=(st.nbytes(), t)
        return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t:t):
        with o._attending(): l=o._forward(b)
    tot=sum(n for n,_ in seen.values())
    return tot, T
for v in ("llama","qwen3","gemma2","phi3"):
  for dt in (torch.float32,torch.bfloat16):
    # vary H and F to fit coefficients
    base=dict(hidden_size=64,intermediate_size=128,num_hidden_layers=2,max_position_embeddings=512)
    if v=="phi3": base["partial_rotary_factor"]=1.0
    r={}
    t0,T=run(v,dt,**base); t3,_=run(v,dt,**(base|dict(num_hidden_layers=4)))
    tf,_=run(v,dt,**(base|dict(intermediate_size=256)))
    it=dt.itemsize
    print(v,dt,"per block per token items", (t3-t0)/2/T/it, "per F", (tf-t0)/2/T/it/128, "ends",(t0-(t3-t0))/T/it)
    c0,_=run(v,dt,True,**base); c3,_=run(v,dt,True,**(base|dict(num_hidden_layers=4)))
    print("   checkpointed per block", (c3-c0)/2/T/it, "ends",(c0-(c3-c0))/T/it)
