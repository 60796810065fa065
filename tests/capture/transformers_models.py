"""A table of transformers model types, each built from a tiny configuration, offline, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[], dict[str, Any]]

VOCABULARY = 37
BATCH, LENGTH = 2, 6

# The names under which configurations know width, depth, heads and feed-forward width.
_NEW = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, vocab_size=VOCABULARY)
_GROUPED = dict(_NEW, num_key_value_heads=2)
_SEQ2SEQ = dict(
    d_model=16,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    vocab_size=VOCABULARY,
    max_position_embeddings=32,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)
_T5 = dict(d_model=16, d_ff=24, d_kv=4, num_layers=2, num_heads=4, vocab_size=VOCABULARY, decoder_start_token_id=0)
_IMAGE = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, image_size=16, patch_size=8
)
_SPEECH = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    conv_dim=(8, 8),
    conv_stride=(4, 4),
    conv_kernel=(8, 8),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    vocab_size=VOCABULARY,
    mask_time_prob=0.0,
    layerdrop=0.0,
)


@dataclass(frozen=True)
class ModelType:
    """A class of transformers, the arguments of its configuration, and what to feed it."""

    family: str
    model_class: str
    config_class: str
    config: dict[str, Any]
    inputs: Inputs

    def build(self) -> nn.Module:
        """The model with random weights, in train mode."""
        import transformers

        config = getattr(transformers, self.config_class)(**self.config)
        return getattr(transformers, self.model_class)(config).train()


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, length))


def text() -> dict[str, Any]:
    ids = tokens()
    return {"input_ids": ids, "labels": ids}


def text_only() -> dict[str, Any]:
    return {"input_ids": tokens()}


def masked_text() -> dict[str, Any]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    return {**text(), "attention_mask": mask}


def image(size: int = 16, channels: int = 3) -> dict[str, Any]:
    return {"pixel_values": torch.randn(BATCH, channels, size, size)}


def image_32() -> dict[str, Any]:
    return image(32)


def image_64() -> dict[str, Any]:
    return image(64)


def video() -> dict[str, Any]:
    return {"pixel_values": torch.randn(BATCH, 2, 3, 16, 16)}


def sound() -> dict[str, Any]:
    return {"input_values": torch.randn(BATCH, 400)}


def spectrogram() -> dict[str, Any]:
    return {"input_values": torch.randn(BATCH, 32, 16)}


def whisper() -> dict[str, Any]:
    return {"input_features": torch.randn(BATCH, 8, 20), "labels": tokens()}


def speech_features() -> dict[str, Any]:
    return {"input_features": torch.randn(BATCH, 24, 8), "labels": tokens()}


def image_and_text() -> dict[str, Any]:
    return {**text_only(), **image(), "return_loss": True}


def series() -> dict[str, Any]:
    return {"past_values": torch.randn(BATCH, 16, 2), "future_values": torch.randn(BATCH, 4, 2)}


MODEL_TYPES = (
    # decoders
    ModelType("decoder", "GPT2LMHeadModel", "GPT2Config", dict(n_embd=16, n_layer=2, n_head=4, n_positions=32, vocab_size=VOCABULARY), text),
    ModelType("decoder", "LlamaForCausalLM", "LlamaConfig", _GROUPED, masked_text),
    ModelType("decoder", "MistralForCausalLM", "MistralConfig", dict(_GROUPED, sliding_window=4), text),
    ModelType("decoder", "Qwen2ForCausalLM", "Qwen2Config", _GROUPED, text),
    ModelType("decoder", "Qwen3ForCausalLM", "Qwen3Config", dict(_GROUPED, head_dim=4), text),
    ModelType("decoder", "GemmaForCausalLM", "GemmaConfig", dict(_GROUPED, head_dim=4), text),
    ModelType("decoder", "Gemma2ForCausalLM", "Gemma2Config", dict(_GROUPED, head_dim=4), text),
    ModelType("decoder", "PhiForCausalLM", "PhiConfig", _NEW, text),
    ModelType("decoder", "Phi3ForCausalLM", "Phi3Config", dict(_GROUPED, pad_token_id=0), text),
    ModelType("decoder", "GPTNeoXForCausalLM", "GPTNeoXConfig", _NEW, text),
    ModelType("decoder", "GPTNeoForCausalLM", "GPTNeoConfig", dict(hidden_size=16, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4, vocab_size=VOCABULARY, max_position_embeddings=32), text),
    ModelType("decoder", "GPTJForCausalLM", "GPTJConfig", dict(n_embd=16, n_layer=2, n_head=4, rotary_dim=4, n_positions=32, vocab_size=VOCABULARY), text),
    ModelType("decoder", "OPTForCausalLM", "OPTConfig", dict(_NEW, ffn_dim=24, word_embed_proj_dim=8, max_position_embeddings=32), text),
    ModelType("decoder", "BloomForCausalLM", "BloomConfig", dict(hidden_size=16, n_layer=2, n_head=4, vocab_size=VOCABULARY), text),
    ModelType("decoder", "FalconForCausalLM", "FalconConfig", _NEW, text),
    ModelType("decoder", "StableLmForCausalLM", "StableLmConfig", _GROUPED, text),
    ModelType("decoder", "OlmoForCausalLM", "OlmoConfig", _GROUPED, text),
    ModelType("decoder", "CohereForCausalLM", "CohereConfig", _GROUPED, text),
    # mixtures of experts
    ModelType("mixture of experts", "MixtralForCausalLM", "MixtralConfig", dict(_GROUPED, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True), text),
    ModelType("mixture of experts", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", dict(_GROUPED, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4, num_experts_per_tok=2), text),
    ModelType("mixture of experts", "OlmoeForCausalLM", "OlmoeConfig", dict(_GROUPED, num_experts=4, num_experts_per_tok=2), text),
    ModelType("mixture of experts", "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", dict(_T5, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=4, expert_capacity=8), text),
    ModelType("mixture of experts", "JambaForCausalLM", "JambaConfig", dict(_GROUPED, num_experts=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, mamba_d_conv=2, mamba_dt_rank=2, use_mamba_kernels=False), text),
    # state spaces and recurrences
    ModelType("state space", "MambaForCausalLM", "MambaConfig", dict(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=VOCABULARY, use_mambapy=False), text),
    ModelType("state space", "Mamba2ForCausalLM", "Mamba2Config", dict(hidden_size=16, num_hidden_layers=2, state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=4, vocab_size=VOCABULARY), text),
    ModelType("state space", "FalconMambaForCausalLM", "FalconMambaConfig", dict(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=VOCABULARY), text),
    ModelType("state space", "RwkvForCausalLM", "RwkvConfig", dict(hidden_size=16, attention_hidden_size=16, num_hidden_layers=2, context_length=16, vocab_size=VOCABULARY), text),
    ModelType("state space", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", dict(_NEW, num_key_value_heads=1, lru_width=16, attention_window_size=4, num_hidden_layers=3), text),
    # encoders
    ModelType("encoder", "BertForMaskedLM", "BertConfig", _NEW, masked_text),
    ModelType("encoder", "RobertaForMaskedLM", "RobertaConfig", dict(_NEW, max_position_embeddings=32), text),
    ModelType("encoder", "DistilBertForMaskedLM", "DistilBertConfig", dict(dim=16, n_layers=2, n_heads=4, hidden_dim=24, vocab_size=VOCABULARY, max_position_embeddings=32), text),
    ModelType("encoder", "AlbertForMaskedLM", "AlbertConfig", dict(_NEW, embedding_size=8), text),
    ModelType("encoder", "ElectraForMaskedLM", "ElectraConfig", dict(_NEW, embedding_size=8), text),
    ModelType("encoder", "DebertaV2ForMaskedLM", "DebertaV2Config", dict(_NEW, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4), text),
    ModelType("encoder", "MPNetForMaskedLM", "MPNetConfig", dict(_NEW, max_position_embeddings=32), text),
    ModelType("encoder", "ConvBertForMaskedLM", "ConvBertConfig", dict(_NEW, embedding_size=16), text),
    ModelType("encoder", "FNetForMaskedLM", "FNetConfig", _NEW, text),
    ModelType("encoder", "NystromformerForMaskedLM", "NystromformerConfig", dict(_NEW, num_landmarks=3, segment_means_seq_len=LENGTH), text),
    ModelType("encoder", "ModernBertForMaskedLM", "ModernBertConfig", dict(_NEW, pad_token_id=0, eos_token_id=1, bos_token_id=2, cls_token_id=2, sep_token_id=1), text),
    ModelType("encoder", "CanineModel", "CanineConfig", dict(_NEW, num_hash_buckets=32, local_transformer_stride=4, upsampling_kernel_size=2, downsampling_rate=2), lambda: {"input_ids": tokens(8)}),
    # encoder-decoders
    ModelType("encoder-decoder", "T5ForConditionalGeneration", "T5Config", _T5, text),
    ModelType("encoder-decoder", "BartForConditionalGeneration", "BartConfig", _SEQ2SEQ, masked_text),
    ModelType("encoder-decoder", "MarianMTModel", "MarianConfig", _SEQ2SEQ, text),
    ModelType("encoder-decoder", "PegasusForConditionalGeneration", "PegasusConfig", _SEQ2SEQ, text),
    ModelType("encoder-decoder", "M2M100ForConditionalGeneration", "M2M100Config", _SEQ2SEQ, text),
    ModelType("encoder-decoder", "BlenderbotForConditionalGeneration", "BlenderbotConfig", _SEQ2SEQ, text),
    ModelType("encoder-decoder", "LEDForConditionalGeneration", "LEDConfig", {**{k: v for k, v in _SEQ2SEQ.items() if k != "max_position_embeddings"}, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32, "attention_window": 4}, text),
    ModelType("encoder-decoder", "LongT5ForConditionalGeneration", "LongT5Config", dict(_T5, local_radius=2), text),
    # vision
    ModelType("vision", "ViTForImageClassification", "ViTConfig", _IMAGE, image),
    ModelType("vision", "DeiTForImageClassification", "DeiTConfig", _IMAGE, image),
    ModelType("vision", "BeitForImageClassification", "BeitConfig", _IMAGE, image),
    ModelType("vision", "Dinov2ForImageClassification", "Dinov2Config", _IMAGE, image),
    ModelType("vision", "ViTMAEForPreTraining", "ViTMAEConfig", dict(_IMAGE, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=24), image),
    ModelType("vision", "SwinForImageClassification", "SwinConfig", dict(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=2), image),
    ModelType("vision", "ConvNextForImageClassification", "ConvNextConfig", dict(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2), image_32),
    ModelType("vision", "ResNetForImageClassification", "ResNetConfig", dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"), image_32),
    ModelType("vision", "MobileNetV2ForImageClassification", "MobileNetV2Config", dict(depth_multiplier=0.25, image_size=32), image_32),
    ModelType("vision", "RegNetForImageClassification", "RegNetConfig", dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8), image_32),
    ModelType("vision", "SegformerForSemanticSegmentation", "SegformerConfig", dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8, sr_ratios=[2, 1, 1, 1]), image_64),
    ModelType("vision", "PoolFormerForImageClassification", "PoolFormerConfig", dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]), image_64),
    ModelType("vision", "VideoMAEForVideoClassification", "VideoMAEConfig", dict(_IMAGE, num_frames=2), video),
    # audio
    ModelType("audio", "Wav2Vec2ForCTC", "Wav2Vec2Config", dict(_SPEECH, num_feat_extract_layers=2), sound),
    ModelType("audio", "HubertModel", "HubertConfig", _SPEECH, sound),
    ModelType("audio", "WavLMModel", "WavLMConfig", _SPEECH, sound),
    ModelType("audio", "WhisperForConditionalGeneration", "WhisperConfig", dict(_SEQ2SEQ, num_mel_bins=8, max_source_positions=10, max_target_positions=32), whisper),
    ModelType("audio", "Speech2TextForConditionalGeneration", "Speech2TextConfig", dict(_SEQ2SEQ, input_feat_per_channel=8, conv_channels=8, max_source_positions=32, max_target_positions=32), speech_features),
    ModelType("audio", "ASTForAudioClassification", "ASTConfig", dict(_NEW, patch_size=4, max_length=32, num_mel_bins=16, frequency_stride=4, time_stride=4), spectrogram),
    # several kinds at once, and time series
    ModelType("multimodal", "CLIPModel", "CLIPConfig", dict(text_config=dict(_NEW, max_position_embeddings=32, eos_token_id=2), vision_config=_IMAGE, projection_dim=8), image_and_text),
    ModelType("multimodal", "SiglipModel", "SiglipConfig", dict(text_config=dict(_NEW, max_position_embeddings=LENGTH), vision_config=_IMAGE), image_and_text),
    ModelType("multimodal", "ViltModel", "ViltConfig", dict(_IMAGE, vocab_size=VOCABULARY), lambda: {**text_only(), **image()}),
    ModelType("time series", "PatchTSTForPrediction", "PatchTSTConfig", dict(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24, prediction_length=4), series),
)  # fmt: skip
