"""Network pickles in the official format, written here: good ones from our networks, and poisoned ones of every kind
that we could think of."""

import builtins
import ctypes
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import struct
import subprocess
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from semgan_nb.official import OFFICIAL_OPTIONS
from semgan_nb.networks import Discriminator, Generator


def same(a, b):
    "Whether two networks have the same numbers."
    return all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def reconstruct(meta):
    raise AssertionError("nobody calls this")


class EasyDict(dict):
    pass


reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
EasyDict.__module__ = "dnnlib.util"


class Persistent:
    """An object that is pickled as the official code pickles its modules."""

    def __init__(self, class_name, state, **meta):
        self.meta = {
            **dict(
                type="class",
                version=6,
                module_src="raise SystemExit('the program in the file ran')",
                class_name=class_name,
                state=state,
            ),
            **meta,
        }

    def __reduce__(self):
        return reconstruct, (self.meta,)


class Call:
    """Pickled as a call of any function with any arguments."""

    def __init__(self, function, *args, state=None):
        self.all = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.all


class Module(dict):
    """The official attributes of a module, before it is wrapped; a test may change them."""


def grouped(table, arguments):
    return EasyDict(
        {
            k: grouped(ours, arguments) if isinstance(ours, dict) else arguments[ours]
            for k, ours in table.items()
            if isinstance(ours, dict) or ours in arguments
        }
    )


def attributes(module, arguments=None):
    state = Module(
        training=False,
        _parameters=OrderedDict(module._parameters),
        _buffers=OrderedDict(module._buffers),
        _non_persistent_buffers_set=set(),
        _backward_hooks=OrderedDict(),
        _forward_hooks=OrderedDict(),
        _modules=OrderedDict((n, attributes(m)) for n, m in module._modules.items() if m is not None),
        weight_gain=np.float64(0.5),
        _init_args=(),
        _init_kwargs=arguments or {},
    )
    state.update(
        {
            k: getattr(module, k)
            for k in (
                "activation",
                "up",
                "down",
                "conv_clamp",
                "use_noise",
                "architecture",
                "group_size",
                "num_channels",
                "bias_gain",
            )
            if hasattr(module, k)
        }
    )
    state.class_name = type(module).__name__
    return state


def wrapped(value):
    if isinstance(value, Module):
        return Persistent(value.class_name, {k: wrapped(v) for k, v in value.items()}, **getattr(value, "meta", {}))
    if type(value) is OrderedDict:
        return OrderedDict((k, wrapped(v)) for k, v in value.items())
    return value


@contextmanager
def stand_ins():
    """While pickling, the modules whose names are written must exist."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj, util.EasyDict = reconstruct, EasyDict
    made = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def dump(content, protocol=4):
    with stand_ins():
        return pickle.dumps({k: wrapped(v) for k, v in content.items()}, protocol)


def content_of(G_ema, G=None, D=None, **more):
    nets = dict(G=G, D=D, G_ema=G_ema)
    found = {
        k: attributes(n, grouped(OFFICIAL_OPTIONS[type(n).__name__], n.init_kwargs))
        for k, n in nets.items()
        if n is not None
    }
    return {
        "training_set_kwargs": EasyDict(path="steel.zip", resolution=G_ema.img_resolution),
        **found,
        "augment_pipe": None,
        **more,
    }


def networks(seed=0, **arguments):
    """A small generator and discriminator with nothing left at its initial zero."""
    torch.manual_seed(seed)
    both = dict(img_resolution=16, channel_base=64, channel_max=8)
    G = Generator(**{**dict(z_dim=8, w_dim=8, **both), **arguments}).eval().requires_grad_(False)
    D = (
        Discriminator(
            **{
                **both,
                **{
                    k: v
                    for k, v in arguments.items()
                    if k in ("img_resolution", "img_channels", "channel_base", "channel_max", "c_dim", "conv_clamp")
                },
            }
        )
        .eval()
        .requires_grad_(False)
    )
    for net in (G, D):
        for name, value in net.state_dict().items():
            if name.endswith(("noise_strength", "bias", "w_avg")):
                value.copy_(torch.randn(value.shape) * 0.2 + ("affine.bias" in name))
    return G, D


# -- poison
# ---------------------------------------------------------------------------------------------------------------


def legacy(
    storage_call=None,
    kind=torch.FloatStorage,
    count=8,
    said=None,
    magic=0x1950A86A20F9469CFC6C,
    version=1001,
    little=True,
    key="0",
    keys=None,
    data=None,
    persistent=True,
):
    """The nested file of a storage, with any of its parts changed."""
    out = io.BytesIO()
    for part in (
        magic,
        version,
        dict(protocol_version=1001, little_endian=little, type_sizes=dict(short=2, int=4, long=4)),
    ):
        pickle.dump(part, out, 2)

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return (
                ("storage", kind, key, "cpu", count if said is None else said, None) if obj == "the storage" else None
            )

    Pickler(out, 2).dump("the storage" if storage_call is None else storage_call)
    pickle.dump([key] if keys is None else keys, out, 2)
    out.write(struct.pack("<q", count) + (b"\0" * 4 * count if data is None else data))
    return out.getvalue()


def tensor(shape=(8,), stride=(1,), offset=0, storage=None, hooks=None, **parts):
    blob = legacy(**parts) if storage is None else storage
    return Call(
        torch._utils._rebuild_tensor_v2,
        Call(torch.storage._load_from_bytes, blob),
        offset,
        shape,
        stride,
        False,
        OrderedDict() if hooks is None else hooks,
    )


def poisons(folder):
    """name -> bytes. Everything that could run would make `folder`/ran."""
    canary = str(Path(folder) / "ran")
    G, D = networks()
    made = {}
    write = f"open({canary!r}, 'w').close()"
    touch = f"touch '{canary}'"
    os_module = Call(importlib.import_module, "os")
    calls = dict(
        system=(os.system, touch),
        popen=(subprocess.Popen, ["touch", canary]),
        check_output=(subprocess.check_output, ["touch", canary]),
        eval=(eval, write),
        exec=(exec, write),
        open=(open, canary, "w"),
        mkdir=(os.mkdir, canary),
        getattr=(getattr, os_module, "system"),
        import_module=(importlib.import_module, "antigravity"),
        dunder_import=(__import__, "antigravity"),
        run_path=(runpy.run_path, canary),
        partial=(functools.partial, os.system, touch),
        attrgetter=(operator.attrgetter("system"), os_module),
        methodcaller=(operator.methodcaller("system", touch), os_module),
        pickle_loads=(pickle.loads, b"N."),
        torch_load=(torch.load, canary),
        numpy_load=(np.load, canary),
        cdll=(ctypes.CDLL, "libc.so.6"),
        compile=(compile, write, "x", "exec"),
        map=(map, os.system, [touch]),
        hub=(torch.hub.load, "a/b", "c"),
        typed=(torch.FloatTensor, 1 << 40),
        zeros=(torch.zeros, (1 << 40,)),
        numpy_zeros=(np.zeros, 1 << 40),
        bytearray=(bytearray, 1 << 40),
        range_list=(list, range(1 << 33)),
        input=(builtins.input,),
    )
    sys.modules.pop("antigravity", None)
    for protocol in (2, 3, 4, 5):
        for name, (function, *args) in calls.items():
            if protocol in (2, 5) or name in ("system", "eval", "exec", "getattr", "partial", "zeros"):
                made[f"call-{name}-p{protocol}"] = pickle.dumps({"G_ema": Call(function, *args)}, protocol)

        def put(name, change):
            content = content_of(G, G, D)
            content = change(content) or content
            made[f"{name}-p{protocol}"] = dump(content, protocol)

        evil = Call(os.system, touch)
        layer = lambda c: c["G_ema"]["_modules"]["synthesis"]["_modules"]["b8"]["_modules"]["conv0"]
        put("in-top", lambda c: {"a": evil, **c})
        put("in-last-entry", lambda c: {**c, "z": evil})
        put("in-training-set", lambda c: c["training_set_kwargs"].update(x=evil))
        put("in-augment-pipe", lambda c: c.update(augment_pipe=evil))
        put("in-parameters", lambda c: layer(c)["_parameters"].update(weight=evil))
        put("in-buffers", lambda c: layer(c)["_buffers"].update(noise_const=evil))
        put("in-hooks", lambda c: layer(c)["_forward_hooks"].update({"0": evil}))
        put("in-attributes", lambda c: layer(c).update(act_gain=evil))
        put("in-arguments", lambda c: c["G_ema"]["_init_kwargs"].update(z_dim=evil))
        put("in-shape", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(evil,))))
        put("in-tensor-hooks", lambda c: layer(c)["_parameters"].update(bias=tensor(hooks=OrderedDict(a=evil))))
        put("in-storage", lambda c: layer(c)["_parameters"].update(bias=tensor(storage_call=evil)))
        put("in-storage-keys", lambda c: layer(c)["_parameters"].update(bias=tensor(keys=evil)))
        put("in-storage-magic", lambda c: layer(c)["_parameters"].update(bias=tensor(magic=evil)))
        put("in-storage-kind", lambda c: layer(c)["_parameters"].update(bias=tensor(kind=os.system)))
        put(
            "storage-in-storage",
            lambda c: layer(c)["_parameters"].update(
                bias=tensor(storage_call=Call(torch.storage._load_from_bytes, b""))
            ),
        )
        put("set-of-evil", lambda c: layer(c).update(_non_persistent_buffers_set=[evil]))
        put("encode-other", lambda c: c.update(G_ema=Call(__import__("_codecs").encode, "x", "rot13")))
        put("decode", lambda c: c.update(G_ema=Call(__import__("_codecs").decode, b"x", "zip")))
        put("ordered-dict-of-pairs", lambda c: c.update(G_ema=Call(OrderedDict, [("a", 1)])))
        put("state-of-module", lambda c: c.update(G_ema=Call(reconstruct, {}, state={"a": evil})))
        put("class-function", lambda c: setattr(c["G_ema"], "meta", dict(type="function")))
        put("class-other", lambda c: setattr(c["G_ema"], "class_name", "StyleGAN3Generator"))
        put("version-7", lambda c: setattr(c["G_ema"], "meta", dict(version=7)))
        # sizes
        put("shape-huge", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(1 << 60,))))
        put("shape-many", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(1 << 30,) * 6, stride=(0,) * 6)))
        put("shape-negative", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(-4,))))
        put("shape-bool", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(True,))))
        put("shape-text", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=("4",))))
        put("stride-zero", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(8,), stride=(0,))))
        put(
            "stride-overlap",
            lambda c: layer(c)["_parameters"].update(weight=tensor(shape=(8, 8, 3, 3), stride=(1, 1, 1, 1), count=100)),
        )
        put(
            "stride-negative", lambda c: layer(c)["_parameters"].update(bias=tensor(shape=(8,), stride=(-1,), offset=3))
        )
        put("offset-beyond", lambda c: layer(c)["_parameters"].update(bias=tensor(offset=10)))
        put("offset-wraps", lambda c: layer(c)["_parameters"].update(bias=tensor(offset=(1 << 64) - 4)))
        put("beyond-storage", lambda c: layer(c)["_parameters"].update(bias=tensor(count=4)))
        put("storage-said-more", lambda c: layer(c)["_parameters"].update(bias=tensor(said=1 << 50)))
        put("storage-said-less", lambda c: layer(c)["_parameters"].update(bias=tensor(data=b"\0" * 4)))
        put("storage-cut", lambda c: layer(c)["_parameters"].update(bias=tensor(storage=legacy()[:60])))
        put("storage-big-endian", lambda c: layer(c)["_parameters"].update(bias=tensor(little=False)))
        put("storage-empty", lambda c: layer(c)["_parameters"].update(bias=tensor(storage=b"")))
        for key, value in dict(
            channel_max=1 << 40, channel_base=1 << 50, num_fp16_res=1 << 62, architecture="x" * 100
        ).items():
            put(f"argument-{key}", lambda c: c["G_ema"]["_init_kwargs"]["synthesis_kwargs"].update({key: value}))
        for key, value in dict(
            img_resolution=1 << 30, z_dim=1 << 40, w_dim=-1, c_dim=1 << 31, img_channels=10**9, unknown_option=1
        ).items():
            put(f"argument-{key}", lambda c: c["G_ema"]["_init_kwargs"].update({key: value}))
        put(
            "argument-big-network",
            lambda c: c["G_ema"]["_init_kwargs"]["synthesis_kwargs"].update(channel_max=1 << 14, channel_base=1 << 20),
        )
        put("argument-many-layers", lambda c: c["G_ema"]["_init_kwargs"]["mapping_kwargs"].update(num_layers=10**9))
        put("argument-nan", lambda c: c["G_ema"]["_init_kwargs"]["mapping_kwargs"].update(lr_multiplier=float("nan")))
        put("name-of-path", lambda c: c["G_ema"]["_parameters"].update({"../../x": torch.zeros(1)}))
        put("names-many", lambda c: c["G_ema"]["_buffers"].update({f"x{i}": None for i in range(30_000)}))
        put("no-network", lambda c: dict(a=1))

        def many_views(c):
            blob = tensor(shape=(1 << 20,), count=1 << 20)
            for i in range(500):
                c["G_ema"]["_buffers"][f"x{i}"] = blob

        put("views-many", many_views) if protocol == 4 else None

    # cycles and repetitions
    text = lambda word: b"\x8c" + bytes([len(word)]) + word.encode()
    start = (
        text("G_ema")
        + b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}("
        + text("type")
        + text("class")
        + text("class_name")
        + text("Generator")
        + text("state")
    )
    made["cycle-of-dict"] = b"\x80\x04}\x94" + text("G_ema") + b"h\x00s."
    made["cycle-of-modules"] = (
        b"\x80\x04}"
        + start
        + b"}\x94"
        + text("version")
        + b"K\x06u\x85R\x94s"
        + text("x")
        + b"h\x00("
        + text("_parameters")
        + b"}"
        + text("_buffers")
        + b"}"
        + text("_init_kwargs")
        + b"}("
        + b"".join(text(k) + b"K\x08" for k in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"))
        + b"u"
        + text("_modules")
        + b"}"
        + text("a")
        + b"h\x01sus."
    )
    part = Persistent("x", {"_parameters": OrderedDict(), "_buffers": OrderedDict(), "_modules": OrderedDict()})
    for _ in range(6):
        part = Persistent(
            "Generator",
            {
                "_parameters": OrderedDict(),
                "_buffers": OrderedDict(),
                "_modules": OrderedDict((f"m{i}", part) for i in range(60)),
                "_init_kwargs": dict(G.init_kwargs),
            },
        )
    part.meta["state"]["_init_kwargs"] = content_of(G)["G_ema"]["_init_kwargs"]
    made["modules-of-modules"] = dump({"G_ema": part})

    # instructions
    p = b"\x80\x04"
    q = struct.pack
    raw = dict(
        empty=b"",
        no_pickle=b"hello",
        zip=b"PK\x03\x04" + b"\0" * 60,
        only_proto=p,
        stop=p + b".",
        protocol_0=b"I1\n.",
        protocol_1=b"\x80\x01N.",
        protocol_6=b"\x80\x06N.",
        unknown_opcode=p + b"\x00.",
        ext1=p + b"\x82\x01.",
        ext2=p + b"\x83\x01\x00.",
        ext4=p + b"\x84\x01\x00\x00\x00.",
        persid=p + b"Pevil\n.",
        binpersid=p + b"NQ.",
        inst=p + b"(ios\nsystem\n.",
        obj=p + b"(cos\nsystem\no.",
        next_buffer=b"\x80\x05\x97.",
        readonly_buffer=b"\x80\x05\x97\x98.",
        bytearray8=b"\x80\x05\x96" + q("<Q", 1 << 62) + b".",
        long4=p + b"\x8b" + q("<i", 2**31 - 1) + b".",
        long4_negative=p + b"\x8b" + q("<i", -5) + b".",
        long1=p + b"\x8a\xff" + b"\xff" * 255 + b".",
        int_digits=p + b"I" + b"9" * 100_000 + b"\n.",
        long_digits=p + b"L" + b"9" * 100_000 + b"L\n.",
        string=p + b"S'x'\n.",
        unicode=p + b"Vx\n.",
        float_text=p + b"F1e5\n.",
        dup=p + b"N2.",
        pop=p + b"N0.",
        pop_mark=p + b"(1.",
        get=p + b"Ng0\n.",
        put=p + b"Np0\n.",
        memo_absent=p + b"h\x07.",
        memo_far=p + b"]r\xff\xff\xff\xff.",
        long_binget=p + b"j\xff\xff\xff\xff.",
        binbytes8=p + b"\x8e" + q("<Q", (1 << 64) - 1) + b".",
        binbytes8_half=p + b"\x8e" + q("<Q", 1 << 62) + b"x" * 100,
        binbytes=p + b"B" + q("<I", 0xFFFFFFFF) + b".",
        binunicode8=p + b"\x8d" + q("<Q", 1 << 63) + b".",
        binunicode=p + b"X" + q("<I", 0xFFFFFFFF) + b".",
        bad_utf8=p + b"X" + q("<I", 2) + b"\xff\xfe.",
        frame=p + b"\x95" + q("<Q", (1 << 64) - 1) + b"N.",
        frame_short=p + b"\x95" + q("<Q", 1),
        newobj_ex=p + b"cos\nsystem\n)}\x92.",
        reduce_nothing=p + b"R.",
        reduce_text=p + b"\x8c\x01a)R.",
        reduce_list=p + b"cbuiltins\nset\n]R.",
        build_dict=p + b"}}b.",
        build_set=p + b"cbuiltins\nset\n)R}b.",
        appends_none=p + b"N(Ne.",
        setitems_odd=p + b"}(Nu.",
        setitem_list=p + b"]NNs.",
        key_tuple=p + b"})Ns.",
        key_int=p + b"}K\x01Ns.",
        stack_global_int=p + b"K\x01K\x02\x93.",
        stack_global_dotted=p + b"\x8c\x02os\x8c\x09path.join\x93.",
        global_no_end=p + b"cos",
        global_long=p + b"c" + b"a" * 100_000 + b"\nx\n.",
        global_space=p + b"ctorch_utils.persistence _reconstruct_persistent_obj\n\n.",
        global_unicode="\u202eevil".encode().join([p + b"c", b"\nx\n."]),
        global_escape=p + b"c\x1b[2J\nx\n.",
        rebuild_other=p + b"ctorch._utils\n_rebuild_qtensor\n.",
        storage_other=p + b"ctorch.storage\n_load_from_bytes_\n.",
        dtype_state=p + b"cnumpy\ndtype\n)R}b}b.",
        marks=p + b"(" * 250_000,
        tuple_under=p + b"N\x87.",
        tf=p + b"cdnnlib.tflib.network\nNetwork\n)\x81}b.",
        tf_old=b"\x80\x03ctfutil\nNetwork\n)\x81}b.",
        tf_tuple=p + b"(cdnnlib.tflib.network\nNetwork\n)\x81N\x85.",
        tuple_top=p + b"NNN\x87.",
        list_top=p + b"].",
        steps=p + b"N" * 400_000 + b".",
        sets=p + b"\x8f" * 299_000,
        bytes_many=p + b"C\x00" * 299_000,
        dicts=p + b"}" * 299_000,
        lists_deep=p + b"]" * 150_000 + b"a" * 149_999 + b".",
        tuples_deep=p + b")" + b"\x85" * 290_000 + b".",
        calls_deep=p + b"cbuiltins\nset\n\x94" + b"h\x00" * 60_000 + b")R" + b"\x85R" * 60_000 + b".",
        bomb=p + b"]\x94" + b"".join(b"]\x94(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(200)) + b".",
    )
    made.update({f"raw-{name}": data for name, data in raw.items()})
    bomb = b"N\x85\x94" + b"".join(
        b"h" + bytes([i]) + b"\x86\x94" for i in range(200)
    )  # a tuple twice in a tuple twice in a tuple …
    made["bomb-as-key"] = p + b"}" + bomb + b"Ns."
    made["bomb-as-global"] = p + bomb + text("x") + b"\x93."
    for tail in ("version", "type", "class_name", "state"):
        made[f"bomb-as-{tail}"] = p + b"}" + start + b"}" + text("x") + bomb + b"s" + text(tail) + b"h\xc8u\x85Rs."
    # truncated and altered
    good = dump(content_of(G, G, D))
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        made[f"cut-{share}"] = good[: int(len(good) * share)]
    return made
