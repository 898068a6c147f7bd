"""The policy network: which pixels a score reads, training modes, images of any size."""

from typing import Any

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from reference import step_loop
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.dcts.search import ConvolutionSearch
from toys import toy_images, toy_policy, toy_segmenter


class TestScores:
    @pytest.mark.parametrize(
        ("height", "width"), [(128, 128), (80, 112), (75, 101), (160, 33)], ids=str
    )
    def test_equal_a_loop_over_windows(self, height, width):
        policy = toy_policy(windows=(2, 4, 8)).double().eval()
        model = toy_segmenter(policy=policy).double()
        images = toy_images(2, height, width).double()
        logits = policy(images)
        for b in range(2):
            expected = step_loop.policy_scores(model, images[b])
            for window in (2, 4, 8):
                scores = logits[window][b].sigmoid()
                assert scores.dtype == torch.float32
                assert scores.shape == (
                    -(-height // 16) // window,
                    -(-width // 16) // window,
                )
                torch.testing.assert_close(
                    scores.double(),
                    torch.tensor(expected[window], dtype=torch.float64).view_as(scores),
                    rtol=1e-5,
                    atol=1e-6,
                )

    def test_an_image_does_not_depend_on_its_neighbours(self):
        policy = toy_policy().eval()
        images = toy_images(3)
        together = policy(images)
        for b in range(3):
            alone = policy(images[b : b + 1])
            for window in (2, 4):
                torch.testing.assert_close(
                    alone[window][0], together[window][b], rtol=1e-4, atol=1e-5
                )

    def test_images_smaller_than_a_window_have_no_score_of_it(self):
        logits = toy_policy(windows=(2, 4, 8, 16)).eval()(toy_images(2, 160, 80))
        assert [tuple(x.shape) for x in logits.values()] == [
            (2, 5, 2),
            (2, 2, 1),
            (2, 1, 0),
            (2, 0, 0),
        ]

    @pytest.mark.parametrize("size", [(160, 80), (16, 16)], ids=str)
    def test_all_parameters_have_a_gradient_where_windows_do_not_fit(self, size):
        policy = toy_policy(windows=(2, 4, 8, 16)).eval()
        sum(logit.sum() for logit in policy(toy_images(2, *size)).values()).backward()
        assert [n for n, p in policy.named_parameters() if p.grad is None] == []

    def test_normalises_as_timm_says(self):
        policy = PolicyNetwork(name="mobilenetv3_small_050")
        config: Any = timm.get_pretrained_cfg("mobilenetv3_small_050")
        assert policy.mean.flatten().tolist() == pytest.approx(config.mean)
        assert policy.std.flatten().tolist() == pytest.approx(config.std)


class TestTraining:
    def test_joint_learns(self):
        policy = toy_policy(training="joint")
        assert policy.training
        assert all(p.requires_grad for p in policy.parameters())
        policy(toy_images(2))[2].sum().backward()
        stem: Any = policy.features.conv_stem
        assert stem.weight.grad.abs().sum() > 0

    def test_frozen_stays_in_evaluation_mode_and_gets_no_gradient(self):
        fresh = PolicyNetwork(name="lcnet_050", training="frozen")
        assert not any(module.training for module in fresh.modules())
        policy = toy_policy(training="frozen").train()
        assert not any(module.training for module in policy.modules())
        assert not any(p.requires_grad for p in policy.parameters())
        state = {key: value.clone() for key, value in policy.state_dict().items()}
        logits = policy(toy_images(2))
        assert not any(logit.requires_grad for logit in logits.values())
        for key, value in policy.state_dict().items():
            assert torch.equal(value, state[key]), key  # running statistics included

    def test_joint_can_be_evaluated(self):
        policy = toy_policy(training="joint").eval()
        assert not any(module.training for module in policy.modules())
        assert policy.train().training


class TestWrongArguments:
    def test_an_unknown_training_mode(self):
        with pytest.raises(ValueError, match="'frozen' or 'joint', got 'warm'"):
            PolicyNetwork(name="lcnet_050", training="warm")  # type: ignore[arg-type]

    def test_an_unknown_network_names_near_ones(self):
        with pytest.raises(ValueError, match=r"no model 'efficientnet_lite7'.*efficientnet_"):
            PolicyNetwork(name="efficientnet_lite7")

    def test_windows_that_do_not_nest(self):
        with pytest.raises(ValueError, match="each divide the next"):
            PolicyNetwork(name="lcnet_050", windows=(2, 6, 8))

    def test_features_coarser_than_the_smallest_window(self):
        with pytest.raises(ValueError, match=r"stride 32.*do not tile windows of 3 patches"):
            PolicyNetwork(name="lcnet_050", windows=(3,))

    def test_weights_that_cannot_be_fetched(self, monkeypatch):
        def offline(name, **options):
            raise ConnectionError("no route to host")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(
            ValueError,
            match=r"'lcnet_050' could not be loaded .*no route.*policy.pretrained=false.*"
            r"policy.checkpoint.*policy.training=joint",
        ):
            PolicyNetwork(name="lcnet_050", pretrained=True)

    def test_other_failures_are_not_blamed_on_weights(self, monkeypatch):
        def broken(name, **options):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(timm, "create_model", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            PolicyNetwork(name="lcnet_050")


class TestOracle:
    def test_scores_are_certain(self):
        labels = torch.zeros(1, 64, 64, dtype=torch.int64)
        labels[0, 0, 0] = 1
        logits = OraclePolicy(windows=(2, 4))(labels)
        assert logits[2].sigmoid().tolist() == [[[0, 1], [1, 1]]]
        assert logits[4].sigmoid().tolist() == [[[0]]]

    def test_windows_that_do_not_nest(self):
        with pytest.raises(ValueError, match="each divide the next"):
            OraclePolicy(windows=(4, 2))


class TestOnOtherDevices:
    def test_half_precision_sees_nearly_the_same_and_decides_in_single(self):
        """In channels-last, which survives casts and folding."""
        policy = PolicyNetwork(name="lcnet_050", windows=(2, 4)).eval()
        images = toy_images(2, 160, 160)
        with torch.no_grad():
            expected = policy.last_features(images)
            policy.fold()
            policy.bfloat16()
            found = policy.last_features(images.bfloat16())
            logits = policy(images.bfloat16())
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).norm() / expected.norm() < 0.03
        weights = [weight for weight in policy.features.parameters() if weight.dim() == 4]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
        for window, logit in logits.items():
            assert policy.classifier[str(window)].weight.dtype == logit.dtype == torch.float32
            assert not torch.equal(logit.bfloat16().float(), logit)

    def test_cudnn_searches_for_few_sizes_at_inference_only(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        search = ConvolutionSearch()

        def searched(side, device="cuda", grad=False):
            with FakeTensorMode(), torch.set_grad_enabled(grad):
                images = torch.empty(1, 3, side, side, device=device)
                with search.over(images):
                    return torch.backends.cudnn.benchmark

        assert not searched(32, "cpu")
        assert not searched(32, grad=True)
        assert [searched(32 * n) for n in (1, 2, 3, 4, 5, 2)] == [True] * 4 + [False, True]
        assert not torch.backends.cudnn.benchmark
        with FakeTensorMode(), torch.no_grad():  # another thread ends first
            images = torch.empty(1, 3, 32, 32, device="cuda")
            with search.over(images):
                assert searched(32)
                assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.benchmark
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        assert not searched(32)
