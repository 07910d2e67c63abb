"""Models of torchvision, timm and transformers as they are, small and with random weights: `make zoo`."""

import math

import numpy as np
import pytest
import torch

import stability as st
from stability.jacobians.of_networks import states_of
from stability.reading.derivatives import derivatives
from stability.reading.inputs import Inputs
from stability.reading.read import read
from stability.reading.trees import tensors_in

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]


def vision(name, **options):
    torchvision = pytest.importorskip("torchvision")
    return getattr(torchvision.models, name)(weights=None, **options)


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, **options)


def language(kind, **options):
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **options}
    config = getattr(transformers, f"{kind.split('.')[0]}Config")(**small)
    return getattr(transformers, kind.replace(".", ""))(config)


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 20, (2, 5), generator=torch.Generator().manual_seed(0))


def words(text):
    return text.split()


def mixer():
    mlp_mixer = pytest.importorskip("timm").models.mlp_mixer
    return mlp_mixer.MlpMixer(img_size=16, patch_size=4, num_blocks=3, embed_dim=12, num_classes=4)


def dotted(prefix, names):
    return [f"{prefix}.{name}" for name in names.split()]


TRANSITIONS = [dotted(f"features.transition{k}", "norm relu conv pool") for k in (1, 2, 3)]
#: By name: how it is made, what it takes, and its layers, as the list of all, or those that must be among them.
MODELS = {
    "resnet18": (
        lambda: vision("resnet18"),
        IMAGE,
        [
            "conv1",
            "bn1",
            "relu",
            "maxpool",
            "layer1.0",
            "layer1.1",
            "layer2.0",
            "layer2.1",
            "layer3.0",
            "layer3.1",
            "layer4.0",
            "layer4.1",
            "avgpool",
            "fc",
        ],
    ),
    "densenet121": (
        lambda: vision("densenet121"),
        IMAGE,
        [
            *dotted("features", "conv0 norm0 relu0 pool0 denseblock1"),
            *TRANSITIONS[0],
            "features.denseblock2",
            *TRANSITIONS[1],
            "features.denseblock3",
            *TRANSITIONS[2],
            *dotted("features", "denseblock4 norm5"),
            "classifier",
        ],
    ),
    "googlenet": (
        lambda: vision("googlenet", init_weights=False),
        IMAGE,
        [
            "conv1",
            "maxpool1",
            "conv2",
            "conv3",
            "maxpool2",
            "inception3a",
            "inception3b",
            "maxpool3",
            "inception4a",
            "inception4b",
            "inception4c",
            "inception4d",
            "inception4e",
            "maxpool4",
            "inception5a",
            "inception5b",
            "avgpool",
            "fc",
        ],
    ),
    "convnext": (lambda: vision("convnext_tiny"), IMAGE, {"features.1.0", "features.5.8", "features.7.2", "avgpool"}),
    "swin": (lambda: vision("swin_t"), IMAGE, {"features.1.0", "features.5.5", "features.7.1", "norm", "head"}),
    "mobilenet": (lambda: vision("mobilenet_v2"), IMAGE, {"features.1", "features.17", "classifier.1"}),
    "resnetv2": (
        lambda: timm("resnetv2_50"),
        IMAGE,
        {"stages.0.blocks.0", "stages.0.blocks.2", "stages.3.blocks.2", "norm", "head"},
    ),
    "efficientnet": (
        lambda: timm("efficientnet_b0"),
        IMAGE,
        {"conv_stem", "bn1", "blocks.0.0", "blocks.1.1", "blocks.6.0", "global_pool", "classifier"},
    ),
    "vit": (
        lambda: timm("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=3, num_heads=2, num_classes=4),
        IMAGE,
        ["patch_embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head"],
    ),
    "mixer": (
        mixer,
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        ["stem", "blocks.0", "blocks.1", "blocks.2", "norm", "head"],
    ),
    "GPT-2": (
        lambda: language("GPT2.LMHeadModel", n_embd=16, n_layer=4, n_head=2, n_positions=8),
        TOKENS,
        [
            "transformer.wte ... transformer.wpe",
            *dotted("transformer", "h.0 h.1 h.2 h.3 ln_f"),
            "lm_head",
        ],
    ),
    "Llama": (
        lambda: language("Llama.ForCausalLM", **SMALL),
        TOKENS,
        [*dotted("model", "embed_tokens layers.0 layers.1 layers.2 norm"), "lm_head"],
    ),
    "GPT-NeoX": (
        lambda: language("GPTNeoX.ForCausalLM", **SMALL),
        TOKENS,
        [*dotted("gpt_neox", "embed_in layers.0 layers.1 layers.2 final_layer_norm"), "lm_head"],
    ),
    "Mamba": (
        lambda: language("Mamba.ForCausalLM", hidden_size=16, num_hidden_layers=3),
        TOKENS,
        [*dotted("backbone", "embeddings layers.0 layers.1 layers.2 norm_f"), "lm_head"],
    ),
    "BERT": (
        lambda: language("Bert.Model", **SMALL),
        {"input_ids": TOKENS},
        ["embeddings", *dotted("encoder", "layer.0 layer.1 layer.2"), "pooler"],
    ),
    "T5": (
        lambda: language("T5.ForConditionalGeneration", d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2),
        {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]},
        [
            *dotted("encoder", "embed_tokens block.0 block.1 block.2 final_layer_norm"),
            *dotted("decoder", "block final_layer_norm"),
            "lm_head",
        ],
    ),
    "ALBERT": (
        lambda: language("Albert.Model", embedding_size=8, **{**SMALL, "num_hidden_layers": 4}),
        TOKENS,
        ["embeddings", "encoder.embedding_hidden_mapping_in"]
        + [f"encoder.albert_layer_groups.0.albert_layers.0{number}" for number in ("", "#2", "#3", "#4")]
        + ["pooler", "pooler_activation"],
    ),
}
#: Whose states are small enough for all singular values.
NARROW = ["vit", "mixer", "GPT-2", "Llama", "GPT-NeoX", "Mamba", "BERT", "T5", "ALBERT"]
#: Works in float32 inside, whatever its own dtype.
COARSE = {"Llama", "T5", "Mamba"}


def built(name):
    torch.manual_seed(0)
    make, x, layers = MODELS[name]
    return make().double().eval(), x.double() if torch.is_tensor(x) and x.is_floating_point() else x, layers


def loss(output):
    return sum((t.double().square().mean() for t in tensors_in(output) if t.requires_grad), torch.zeros(()))


def called(net, x):
    inputs = Inputs.of(x, None)
    return net(*inputs.args, **inputs.options)


@pytest.mark.parametrize("name", MODELS)
def test_layers_by_name_from_every_verb(name):
    net, x, expected = built(name)
    layers = st.layers(net, x)
    if isinstance(expected, set):
        assert expected <= set(layers.names)
        for one in expected:
            assert layers.names.count(one) == 1
    else:
        assert list(layers.names) == expected
    assert set().union(*(layer.parameters for layer in layers)) == dict(net.named_parameters()).keys()
    assert st.propagation(net, x, layers).layers == layers.names
    assert st.gradient_norms(net, x, loss).layers == layers.names
    assert st.forward_error(net, x, ["float32"]).layers == layers.names
    with st.watch(net) as record:
        loss(called(net, x)).backward()
    assert record.layers == layers.names


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_parameters_are_those_of_an_ordinary_pass(name):
    net, x, _ = built(name)
    g = st.gradient_norms(net, x, loss)
    loss(called(net, x)).backward()
    for parameter, value in net.named_parameters():
        if value.grad is None:  # an auxiliary head, which is not called in eval mode
            assert parameter in g.missing
            continue
        expected = math.log(value.grad.norm()) if value.grad.norm() else -math.inf
        assert g.named[parameter].item() == pytest.approx(expected, abs=1e-6 if name in COARSE else 1e-11), parameter


@pytest.mark.parametrize("name", MODELS)
def test_what_goes_back_from_layer_to_layer_is_the_gradient(name):
    net, x, _ = built(name)
    with states_of(read(net, x)) as (names, states):
        layers = list(derivatives(names, states))
        cotangent = torch.randn(1, states[-1].size, states[-1].width, dtype=torch.float64).to(layers[-1].like)
        back, gradients = cotangent, []
        for layer in reversed(layers):
            back = layer.pull(back)
            gradients.append(back)
        direct = torch.autograd.grad(
            states[-1].gradient_edges, states[0].gradient_edges, states[-1].shaped(cotangent[0]), retain_graph=True
        )
        expected = states[0].flat(direct)
        tolerance = 1e-5 if name in COARSE else 1e-12
        assert (back[0] - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", NARROW)
def test_products_are_the_jacobian_of_the_whole_and_leading_values_lead(name):
    net, x, _ = built(name)
    s, top = (st.spectrum(net, x, k=k, progress=False) for k in (None, 2))
    assert s.layers == top.layers == st.layers(net, x).names
    coarse = 1e-4 if name in COARSE else 1e-7
    torch.testing.assert_close(top.log_values, s.log_values[..., :2], rtol=0, atol=coarse)
    with states_of(read(net, x)) as (names, states):
        rows = torch.eye(states[-1].width, dtype=torch.float64)
        for point in range(states[0].size):
            whole = []
            for row in rows:
                cotangent = torch.zeros(states[-1].size, states[-1].width, dtype=torch.float64)
                cotangent[point] = row
                found = torch.autograd.grad(
                    states[-1].gradient_edges,
                    states[0].gradient_edges,
                    states[-1].shaped(cotangent.to(states[-1].tensor)),
                    retain_graph=True,
                )
                whole.append(states[0].flat(found)[point].double().numpy())
            with np.errstate(divide="ignore"):  # a head that begins at zero
                expected = np.log(np.linalg.svd(np.array(whole), compute_uv=False))
            safe = expected > expected[0] + math.log(1e-3)
            found = s.log_values[-1, 0, point, : len(expected)].numpy()
            np.testing.assert_allclose(found[safe[: len(found)]], expected[safe], rtol=0, atol=coarse)
        assert len(names) == s.depth
