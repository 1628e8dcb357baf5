import time
exec(open(".t.py").read().split("go(C8")[0])
from quatrain.memory.request import *; from quatrain.memory.choose import *; from quatrain.memory.card import *; from quatrain.memory.amounts import *
C70=cfg(hidden_size=8192,intermediate_size=28672,num_hidden_layers=80,num_attention_heads=64,num_key_value_heads=8,head_dim=128,vocab_size=128256,tie_word_embeddings=False)
C33=cfg(hidden_size=6656,intermediate_size=17920,num_hidden_layers=60,num_attention_heads=52,num_key_value_heads=52,vocab_size=32000,tie_word_embeddings=False)
C65=cfg(hidden_size=8192,intermediate_size=22016,num_hidden_layers=80,num_attention_heads=64,num_key_value_heads=64,vocab_size=32000,tie_word_embeddings=False)
C405=cfg(hidden_size=16384,intermediate_size=53248,num_hidden_layers=126,num_attention_heads=128,num_key_value_heads=8,head_dim=128,vocab_size=128256,tie_word_embeddings=False)
def pl(c,mem,card="h200",r=16,ml=2048,rows=4,at=(1,2,4),host=100e9,**k):
    m=shape_of(c,Treatment(four_bits=lambda n:True,rank=lambda n:r))
    t=time.perf_counter()
    try: p=make_plan(Request(model=m,card=card_named(card),budget=int(mem),host=int(host),max_length=ml,rows=rows,rows_at_once=at,policies=POLICIES,**k))
    except Exception as e: print(type(e).__name__, e, f"{time.perf_counter()-t:.2f}s"); return
    print(f"{time.perf_counter()-t:.2f}s", summary(p), p.policies[0],p.policies.count(p.policies[0]),p.policies[-1], "streamed",len(p.streamed_blocks),"disk",len(p.disk_blocks),"paged",p.paged_optimizer, {k:gigabytes(v) for k,v in p.peaks.items()}, gigabytes(p.outside_tensors)); print("    ",*p.notes,sep="\n    ")
pl(C8,24e9); pl(C8,24e9,"rtx4090"); pl(C8,8e9); pl(C8,4e9); pl(C33,24e9,r=64,ml=512,rows=16,at=(1,)); pl(C65,48e9,r=64,ml=512,rows=16,at=(1,)); pl(C70,24e9,ml=4096,rows=1,at=(1,)); pl(C70,12e9,ml=4096,rows=1,at=(1,)); pl(C405,139e9,host=110e9,ml=4096,rows=1,at=(1,))
pl(C8,24e9,ml=78475,rows=1,at=(1,)); pl(C8,8e9,ml=3418,rows=1,at=(1,)); pl(C8,6e9,ml=3418,rows=1,at=(1,))
