import time
from quatrain.memory.architectures import *
from quatrain.memory.step import *
from quatrain.memory.weights import *
from quatrain.blocks.policy import POLICIES
cfg=lambda **k: dict(model_type="llama",**k)
C8=cfg(hidden_size=4096,intermediate_size=14336,num_hidden_layers=32,num_attention_heads=32,num_key_value_heads=8,head_dim=128,vocab_size=128256,tie_word_embeddings=False)
C1=cfg(hidden_size=2048,intermediate_size=8192,num_hidden_layers=16,num_attention_heads=32,num_key_value_heads=8,head_dim=64,vocab_size=128256,tie_word_embeddings=True)
def go(c,T,longest,pol,r=16):
    m=shape_of(c,Treatment(four_bits=lambda n:True,rank=lambda n:r))
    w=[block_weights(b,m,on_gpu=True).total for b in m.blocks]
    row=Row(tokens=T,longest=longest,supervised=T,backend="cudnn")
    st=Step(m,row); t=time.perf_counter(); h=st.fullest([POLICIES[pol]]*len(m.blocks)); t=time.perf_counter()-t
    tot=sum(w)+sixteen_bit_bytes(m)+adapter_bytes(m)+4*m.adapter_parameters+optimizer_bytes(m,8)+sum(shared_buffers(m,row).values())+rotary_bytes(m,row)+h.total+(32<<20)
    print(f"{tot/2**30:.3f} GiB", h, f"{t*1e3:.2f} ms")
go(C8,8192,2048,"off"); go(C8,8192,2048,"offload"); go(C1,8192,2048,"off"); go(C8,2048,2048,"off"); go(C8,65536,65536,"offload_attention")
from quatrain.memory.seconds import *; from quatrain.memory.card import *
def tm(c,T,longest,pol,r=16,sup=None,meas=None):
    m=shape_of(c,Treatment(four_bits=lambda n:True,rank=lambda n:r))
    row=Row(tokens=T,longest=longest,supervised=T,backend="cudnn")
    t=time.perf_counter();pc=Pace(Step(m,row),card_named("h200")); t=time.perf_counter()-t; s=pc.seconds([POLICIES[pol]]*len(m.blocks),0,0,1); s["opt"]=pc.optimizer(optimizer_bytes(m,8),paged=False)
    print(f"{sum(s.values())*1e3:.1f} ms measured {meas}", {k:round(v*1e3,1) for k,v in s.items()}, {k:round(v*1e3*len(m.blocks),1) for k,v in pc.blocks[0].again.items()})
    b=pc.step.blocks[0]; print("   products", [round(pc._product(p)*len(m.blocks)*1e3,1) for p in b.products], "att",[round(x*len(m.blocks)*1e3,1) for x in pc._attention(b)], f"{t*1e3:.1f}")
tm(C8,8192,2048,"off",meas=488.5); tm(C8,8192,2048,"offload",meas=594.5); tm(C1,8192,2048,"off",meas=94.1); tm(C1,1024,1024,"off",meas=17.3); tm(C8,2048,2048,"off",meas="134.6 w/o opt"); tm(C8,8192,512,"off",64,meas="504 dropout .1")
tm(C8,65536,65536,"offload_attention",meas=13200)
