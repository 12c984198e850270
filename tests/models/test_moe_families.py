# SPDX-License-Identifier: Apache-2.0
"""Mixtral and Qwen 3 with experts: their sizes, and config.json there and back."""

import jax
import pytest

from alignjax import config, errors, models, trees
from alignjax.huggingface import config_json
from alignjax.models import decoder_config, families

mixtral, qwen3_moe = families.find("mixtral"), families.find("qwen3_moe")


@pytest.mark.parametrize(
    "family,name,billions",
    [
        ("mixtral", "8x7b", 46.703),
        ("mixtral", "8x22b", 140.62),
        ("qwen3_moe", "30b-a3b", 30.532),
        ("qwen3_moe", "235b-a22b", 235.094),
    ],
)
def test_sizes_are_what_their_names_say(family, name, billions):
    model = models.build(dict(family=family, name=name), 100)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    assert trees.count(abstract) / 1e9 == pytest.approx(billions, abs=0.005)


SAID = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=61,
)


@pytest.mark.parametrize("family", [mixtral, qwen3_moe])
def test_config_json_there_and_back(family):
    read = lambda **more: config.build(
        decoder_config.DecoderConfig, config_json.read(SAID | more, family), "model"
    )
    experts = dict(num_local_experts=6, num_experts_per_tok=3)
    c = read(**experts, output_router_logits=True, router_aux_loss_coef=0.02)
    assert (c.experts, c.experts_per_token, c.router_loss) == (6, 3, 0.02)
    assert read(**experts, router_aux_loss_coef=0.02).router_loss == 0
    again = config_json.read(config_json.write(c, family), family)
    assert again == config_json.read(SAID | experts, family) | again
    assert (
        config.build(decoder_config.DecoderConfig, again, "model").router_loss == 0.02
    )
    if family is qwen3_moe:
        theirs = dict(num_experts=6, num_experts_per_tok=3)
        assert c.experts == read(**theirs).experts
        assert not c.norm_topk and read(norm_topk_prob=True).norm_topk
        assert c.size_of_expert == 768


@pytest.mark.parametrize(
    "family,more,message",
    [
        (
            mixtral,
            dict(router_jitter_noise=0.1),
            "config.json.router_jitter_noise: 0.1",
        ),
        (qwen3_moe, dict(decoder_sparse_step=2), "config.json.decoder_sparse_step: 2"),
        (qwen3_moe, dict(mlp_only_layers=[0]), r"config.json.mlp_only_layers: [0] is"),
        (
            qwen3_moe,
            dict(num_experts=4, num_local_experts=8),
            "num_experts and num_local_experts differ: [4, 8]",
        ),
        (qwen3_moe, dict(shared_expert_intermediate_size=8), "config.json.shared_exp"),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_refuses_what_it_does_not_compute(family, more, message):
    with pytest.raises(errors.ConfigError) as error:
        config_json.read(SAID | more, family)
    assert message in str(error.value)
