import jax, itertools, sys
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import PartitionSpec as P
from jaxsoftmax import linear_cross_entropy, forward_mode
rng=np.random.default_rng(0)
N,D,V=24,5,32
h=rng.normal(size=(N,D)).astype(np.float32); k=rng.normal(size=(D,V)).astype(np.float32); b=rng.normal(size=V).astype(np.float32)
y=rng.integers(0,V,N).astype(np.int32); y[:4]=[0,7,8,31]
u=rng.uniform(size=N).astype(np.float32); w=rng.uniform(size=V).astype(np.float32)
h,k,b,u,w,y=map(jnp.asarray,(h,k,b,u,w,y))
def mesh_of(d,v): return jax.make_mesh((d,v),("data","vocab"),axis_types=(jax.sharding.AxisType.Auto,)*2)
KW={"plain":{}, "all":dict(label_smoothing=.1,z_loss=.01,logit_softcap=3.0), "ignore":dict(ignore_index=7)}
for f in (linear_cross_entropy, forward_mode.linear_cross_entropy):
  for (d,v),name,red,cw,chunk in itertools.product([(1,4),(2,2),(4,1),(2,4)],KW,("sum","none"),(False,True),(None,3)):
    kw=KW[name]
    mesh=mesh_of(d,v)
    args=(h,k,b,u,w)
    @partial(jax.shard_map,mesh=mesh,in_specs=(P("data"),P(None,"vocab"),P("vocab"),P("data"),P("vocab"),P("data")),out_specs=P() if red=="sum" else P("data"))
    def local(h,k,b,u,w,y):
        l=f(h,k,y,bias=b,token_weights=u,class_weights=w if cw else None,reduction=red,chunk_size=chunk,axis_name="vocab",**kw)
        return jax.lax.psum(l,"data") if red=="sum" else l
    c=rng.normal(size=N).astype(np.float32)
    def total(g):
        def t(h,k,b,u,w,y):
            l=g(h,k,b,u,w,y); return jnp.sum(l*c) if l.ndim else l
        return t
    ref=lambda h,k,b,u,w,y: f(h,k,y,bias=b,token_weights=u,class_weights=w if cw else None,reduction=red,**kw)
    try:
        got=jax.jit(jax.value_and_grad(total(local),(0,1,2,3)))(h,k,b,u,w,y)
    except Exception as e:
        print("FAIL",f.__module__,(d,v),name,red,cw,chunk,type(e).__name__,str(e)[:700])
        if len(sys.argv)<2: sys.exit()
        continue
    exp=jax.jit(jax.value_and_grad(total(ref),(0,1,2,3)))(h,k,b,u,w,y)
    err=[float(np.linalg.norm(np.asarray(p)-np.asarray(q))/np.linalg.norm(np.asarray(q))) for p,q in zip(jax.tree.leaves(got),jax.tree.leaves(exp))]
    if max(err)>1e-6: print("BAD",f.__module__,(d,v),name,red,cw,chunk,err)
    if chunk is None and not cw and red=="sum":
        hv=lambda g: jax.jvp(lambda *a: jax.grad(total(g),(0,1,2,3))(*a,w,y),(h,k,b,u),(h[::-1],k[::-1],b[::-1],u[::-1]))[1]
        p=hv(jax.jit(local)); q=hv(jax.jit(ref))
        err=[float(np.linalg.norm(np.asarray(p)-np.asarray(q))/np.linalg.norm(np.asarray(q))) for p,q in zip(p,q)]
        if max(err)>2e-6: print("BAD HVP",(d,v),name,err)
  print("done",f.__module__)
