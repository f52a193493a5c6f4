"""Step tables against diffusers' schedulers, driven by predictions that depend on the latents."""

import inspect
import json
from math import inf, nan

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instantrt.contracts import NOISE_ROWS, STEP_COLUMNS, STEP_ROWS
from instantrt.errors import BundleError, RequestError
from instantrt.samplers import HOLD_ROW, SAMPLERS, SchedulerConfig, step_table
from instantrt.samplers.config import KNOWN_CLASSES

# diffusers 0.42 hands tensors to np.array in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

STEP_COUNTS = [4, 5, 7, 10, 25, 30, 50, 99, 100]
SPACINGS = ["leading", "linspace", "trailing"]
PREDICTIONS = ["epsilon", "v_prediction"]
SHAPE = (1, 4, 5, 3)  # of the latents; 60 elements
TOLERANCE = 1e-5

SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


class Network:
    """A nonlinear stand-in: its prediction depends on its input, the timestep, and fresh numbers per call.

    As of a real denoiser, its Jacobian is positive semidefinite: latents that differ by rounding stay close over 199
    calls, where a map of random weights would drive them apart whatever the sampler does.
    """

    def __init__(self, calls, rng):
        size = int(np.prod(SHAPE))
        self.weights = np.linalg.qr(rng.standard_normal((size, size)))[0]
        self.fresh = rng.standard_normal((calls, *SHAPE))

    def __call__(self, call, scaled, timestep):
        features = np.tanh(self.weights @ scaled.ravel() + timestep / 500)
        return (self.weights.T @ features).reshape(SHAPE) + 0.6 * self.fresh[call]


def diffusers_scheduler(sampler, steps, config):
    chosen = SAMPLERS[sampler]
    scheduler = getattr(diffusers, chosen.scheduler.diffusers_class).from_config(config, **chosen.overrides)
    if sampler == "lcm":
        scheduler.set_timesteps(steps, original_inference_steps=max(config.get("original_inference_steps", 50), steps))
    else:
        scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        # Without it diffusers starts at the second of two equal first timesteps and runs out of sigmas at the end.
        scheduler.set_begin_index(0)
    return scheduler


def run_diffusers(scheduler, network, generator):
    """Final latents float64, and per call the timestep and the scale of the input."""
    x = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    calls = []
    for call, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, timestep)
        calls.append((float(timestep), float(scheduler.scale_model_input(torch.ones(()), timestep))))
        eps = torch.from_numpy(network(call, scaled.double().numpy(), float(timestep))).float()
        x = scheduler.step(eps, timestep, x, **({"generator": generator} if takes_generator else {})).prev_sample
    return x.double().numpy(), np.array(calls).T


def run_table(table, network, generator):
    """The same run by the table's rows, in float64."""
    rows = [dict(zip(STEP_COLUMNS, row.astype(float), strict=True)) for row in table.rows]
    x = torch.randn(SHAPE, generator=generator).double().numpy() * table.init_noise_sigma
    draws = [torch.randn(SHAPE, generator=generator).double().numpy() for _ in range(table.noise_draws)]
    history = np.zeros(SHAPE)
    for i, row in enumerate(rows):
        eps = network(i, row["input_scale"] * x, float(table.timesteps[i]))
        z = draws[i] if i < len(draws) else np.full(SHAPE, np.nan) if row["s"] else np.zeros(SHAPE)
        x, history = (
            row["a"] * x + row["b"] * eps + row["c"] * history + row["s"] * z,
            row["d"] * x + row["e"] * eps + row["f"] * history,
        )
    return x


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def assert_equals_diffusers(sampler, steps, config, rng, tolerance=TOLERANCE):
    scheduler = diffusers_scheduler(sampler, steps, config)
    table = step_table(sampler, steps, 5.0, SchedulerConfig.from_json(config))
    assert len(table.rows) == len(table.timesteps) == len(scheduler.timesteps)
    assert len(table.rows) <= STEP_ROWS
    assert table.noise_draws <= NOISE_ROWS
    network = Network(len(table.rows), rng)
    seed = int(rng.integers(2**31))
    theirs, ours = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    expected, (timesteps, input_scales) = run_diffusers(scheduler, network, theirs)
    found = run_table(table, network, ours)
    np.testing.assert_allclose(table.timesteps, timesteps, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(table.rows[:, 0], input_scales, rtol=tolerance / 10)
    assert table.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-6)
    assert relative_error(found, expected) <= tolerance
    # Both generators must have been drawn from equally often, or the next draw would differ.
    assert torch.equal(torch.randn(20, generator=ours), torch.randn(20, generator=theirs))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tables_equal_diffusers(sampler, steps, spacing, prediction_type, rng):
    config = {**SDXL, "timestep_spacing": spacing, "prediction_type": prediction_type}
    assert_equals_diffusers(sampler, steps, config, rng)


@settings(max_examples=150, deadline=None)
@given(
    sampler=st.sampled_from(sorted(SAMPLERS)),
    steps=st.integers(4, 100),
    config=st.fixed_dictionaries(
        {},
        optional={
            "beta_schedule": st.sampled_from(["linear", "scaled_linear"]),
            "beta_start": st.sampled_from([0.0005, 0.001]),
            "beta_end": st.sampled_from([0.01, 0.014]),
            "prediction_type": st.sampled_from(PREDICTIONS),
            "timestep_spacing": st.sampled_from(SPACINGS),
            "steps_offset": st.sampled_from([0, 1, 3]),
            "use_karras_sigmas": st.booleans(),
            "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
            "set_alpha_to_one": st.booleans(),
            "solver_type": st.sampled_from(["midpoint", "heun", "bh2"]),
            "solver_order": st.just(3),
            "algorithm_type": st.just("deis"),
            "lower_order_final": st.booleans(),
            "euler_at_final": st.booleans(),
            "sigma_min": st.sampled_from([None, 0.05]),
            "sigma_max": st.sampled_from([None, 10.0]),
            "original_inference_steps": st.sampled_from([50, 100]),
            "timestep_scaling": st.sampled_from([1.0, 10.0]),
        },
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_tables_equal_diffusers_for_any_config(sampler, steps, config, seed):
    # Keys that are left out take each class's own default, so most examples mix said and unsaid keys.
    trailing = config.get("timestep_spacing") == "trailing" or sampler == "euler_trailing"
    assume(not (trailing and steps == 61))  # see test_trailing_spacing_gives_no_step_too_many
    # Karras sigmas that end in the final sigma make diffusers' last SDE step the square root of rounding noise.
    assume(not (sampler.endswith("_karras") and config.get("final_sigmas_type") == "sigma_min"))
    assert_equals_diffusers(sampler, steps, {"clip_sample": False, **config}, np.random.default_rng(seed))


@pytest.mark.parametrize("steps", [4, 30, 100])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "extra",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(0.0002, 0.018, 1000).tolist()},
        {"num_train_timesteps": 500},
        {"lambda_min_clipped": -2.0},
        {"lambda_min_clipped": -2.0, "timestep_spacing": "trailing"},
        {"use_karras_sigmas": True},
    ],
    ids=lambda extra: "-".join(extra),
)
def test_tables_equal_diffusers_for_rarer_configs(sampler, steps, extra, rng):
    assert_equals_diffusers(sampler, steps, {**SDXL, **extra}, rng)


@pytest.mark.parametrize("steps", [4, 30, 100])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_tables_equal_diffusers(sampler, steps, rng):
    extra = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    # diffusers' Euler cancels latents of size 4096, and 1 - alphas near 1, in float32; the table in float64.
    assert_equals_diffusers(sampler, steps, {**SDXL, **extra}, rng, tolerance=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
def test_zero_terminal_snr_with_epsilon_is_refused_where_it_divides_by_zero(sampler):
    config = {**SDXL, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(BundleError, match="not finite"):
        step_table(sampler, 10, 5.0, SchedulerConfig.from_json(config))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "ddim", "dpmpp_2m", "heun"])
def test_trailing_spacing_gives_no_step_too_many(sampler):
    """At 61 steps diffusers' trailing range overshoots to a 62nd timestep of -1; the table stops where it should."""
    config = SchedulerConfig.from_json({**SDXL, "timestep_spacing": "trailing"})
    for steps in range(4, 101):
        timesteps = step_table(sampler, steps, 5.0, config).timesteps
        assert len(np.unique(timesteps)) == steps
        assert timesteps[0] == 999
        assert timesteps.min() >= 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_defaults_are_those_of_the_diffusers_class(sampler):
    scheduler = SAMPLERS[sampler].scheduler
    parameters = inspect.signature(getattr(diffusers, scheduler.diffusers_class).__init__).parameters
    assert dict(scheduler.defaults) == {name: p.default for name, p in parameters.items() if name != "self"}


def test_every_key_of_the_known_classes_is_accepted_at_its_default():
    for name in sorted(KNOWN_CLASSES):
        scheduler = getattr(diffusers, name)
        if "dummy" in scheduler.__module__:
            continue  # its optional package is not installed
        parameters = inspect.signature(scheduler.__init__).parameters.values()
        config = {"_class_name": name, **{p.name: p.default for p in parameters if p.default is not p.empty}}
        assert SchedulerConfig.from_json(config).to_json() == config


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_config_that_diffusers_saved_again_gives_the_same_table(sampler):
    saved = json.loads(diffusers.EulerDiscreteScheduler.from_config(SDXL).to_json_string())
    first, again = (step_table(sampler, 10, 5.0, SchedulerConfig.from_json(c)) for c in (SDXL, saved))
    np.testing.assert_array_equal(first.rows, again.rows)


def test_keys_that_diffusers_marks_as_unsaid_are_left_out():
    config = SchedulerConfig.from_json({**SDXL, "_use_default_values": ["clip_sample"]})
    with pytest.raises(BundleError, match="default of DDIMScheduler"):
        step_table("ddim", 10, 5.0, config)


def test_a_config_survives_json():
    config = SchedulerConfig.from_json(SDXL)
    assert SchedulerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"prediction_type": "sample"}, "prediction_type='sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ({"timestep_spacing": "even"}, "timestep_spacing='even'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"shift": 3.0}, "shift=3.0"),
        ({"beta_start": "0.1"}, "beta_start='0.1'"),
        ({"beta_end": None}, "beta_end=None"),
        ({"beta_end": nan}, "beta_end=nan"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps=1000.0"),
        ({"num_train_timesteps": True}, "num_train_timesteps=True"),
        ({"clip_sample": 0}, "clip_sample=0"),
        ({"trained_betas": [0.1, "0.2"]}, "trained_betas"),
    ],
)
def test_configs_that_no_sampler_can_follow_are_refused_on_reading(extra, named):
    with pytest.raises(BundleError, match=named):
        SchedulerConfig.from_json({**SDXL, **extra})


@pytest.mark.parametrize(
    ("sampler", "extra", "named"),
    [
        ("ddim", {"clip_sample": True}, "clip_sample=True"),
        ("heun", {"clip_sample": True}, "clip_sample=True"),
        ("ddim", {"thresholding": True}, "thresholding=True"),
        ("dpmpp_2m", {"use_lu_lambdas": True}, "use_lu_lambdas=True"),
        ("dpmpp_2m", {"use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ("dpmpp_2m", {"variance_type": "learned_range"}, "variance_type='learned_range'"),
        ("dpmpp_2m", {"solver_type": "exotic"}, "solver_type='exotic'"),
        ("euler", {"use_exponential_sigmas": True}, "use_exponential_sigmas=True"),
        ("euler", {"use_beta_sigmas": True}, "use_beta_sigmas=True"),
        ("euler", {"interpolation_type": "log_linear"}, "interpolation_type='log_linear'"),
        ("euler", {"timestep_type": "continuous"}, "timestep_type='continuous'"),
        ("euler", {"final_sigmas_type": "one"}, "final_sigmas_type='one'"),
        ("euler", {"num_train_timesteps": 100}, "num_train_timesteps=100"),
        ("euler", {"trained_betas": [0.1] * 10}, r"len\(trained_betas\)=10"),
        ("euler", {"beta_end": 1.5}, "1.5"),
        ("euler", {"steps_offset": 500}, "steps_offset=500"),
        ("euler", {"steps_offset": -1}, "steps_offset=-1"),
        ("lcm", {"original_inference_steps": 2000}, "original_inference_steps=2000"),
    ],
)
def test_configs_that_one_sampler_cannot_follow_are_refused_for_it(sampler, extra, named):
    config = SchedulerConfig.from_json({**SDXL, **extra})
    with pytest.raises(BundleError, match=named):
        step_table(sampler, 10, 5.0, config)


def test_keys_of_other_classes_change_nothing():
    # As in diffusers: Heun knows no final_sigmas_type and no zero terminal SNR, Euler no clipping.
    plain = SchedulerConfig.from_json(SDXL)
    for sampler, extra in [
        ("heun", {"final_sigmas_type": "sigma_min", "rescale_betas_zero_snr": True}),
        ("euler", {"clip_sample": True, "thresholding": True}),
    ]:
        other = SchedulerConfig.from_json({**SDXL, **extra})
        np.testing.assert_array_equal(
            step_table(sampler, 10, 5.0, other).rows, step_table(sampler, 10, 5.0, plain).rows
        )


@pytest.mark.parametrize("steps", [0, 3, 101, -4, 10.5, True, "10", None])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(RequestError, match="from 4 to 100"):
        step_table("euler", steps, 5.0, SchedulerConfig.from_json(SDXL))


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(RequestError, match=", ".join(SAMPLERS)):
        step_table("plms", 10, 5.0, SchedulerConfig.from_json(SDXL))


@pytest.mark.parametrize("guidance_scale", [nan, inf, 0.5, 26])
def test_guidance_out_of_range_is_refused(guidance_scale):
    with pytest.raises(RequestError, match="guidance_scale"):
        step_table("euler", 10, guidance_scale, SchedulerConfig.from_json(SDXL))


@pytest.mark.parametrize("window", [(-0.1, 1.0), (0.0, 1.1), (0.5, 0.5), (0.8, 0.2), (nan, 1.0), (0.0, nan)])
def test_windows_out_of_range_are_refused(window):
    with pytest.raises(RequestError, match="control_guidance"):
        step_table("euler", 10, 5.0, SchedulerConfig.from_json(SDXL), window)


@settings(max_examples=60, deadline=None)
@given(
    sampler=st.sampled_from(sorted(SAMPLERS)),
    steps=st.integers(4, 100),
    guidance_scale=st.floats(1, 25, width=32),
    window=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda w: w[0] < w[1]),
)
def test_guidance_and_window_columns(sampler, steps, guidance_scale, window):
    table = step_table(sampler, steps, guidance_scale, SchedulerConfig.from_json(SDXL), tuple(window))
    columns = dict(zip(STEP_COLUMNS, table.rows.T, strict=True))
    count = len(table.rows)
    assert count == (2 * steps - 1 if sampler == "heun" else steps)
    np.testing.assert_array_equal(columns["guidance"], np.float32(guidance_scale))
    # diffusers' ControlNet pipelines compute what they call controlnet_keep so.
    keep = [1.0 - float(i / count < window[0] or (i + 1) / count > window[1]) for i in range(count)]
    np.testing.assert_array_equal(columns["control_scale"], keep)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tables_are_contiguous_float32_and_noise_ends_where_it_is_drawn(sampler):
    table = step_table(sampler, 30, 5.0, SchedulerConfig.from_json(SDXL))
    assert table.rows.dtype == table.timesteps.dtype == np.float32
    assert table.rows.flags.c_contiguous
    assert table.rows.shape == (len(table.timesteps), len(STEP_COLUMNS))
    noise = table.rows[:, STEP_COLUMNS.index("s")]
    assert not noise[table.noise_draws :].any()
    assert noise.any() == (table.noise_draws > 0)


def test_the_hold_row_leaves_latents_and_history_as_they_are(rng):
    row = dict(zip(STEP_COLUMNS, HOLD_ROW, strict=True))
    x, eps, h, z = rng.standard_normal((4, 8)).astype(np.float32)
    assert HOLD_ROW.dtype == np.float32
    np.testing.assert_array_equal(row["a"] * x + row["b"] * eps + row["c"] * h + row["s"] * z, x)
    np.testing.assert_array_equal(row["d"] * x + row["e"] * eps + row["f"] * h, h)
    assert (row["input_scale"], row["guidance"], row["control_scale"]) == (1, 1, 0)
    with pytest.raises(ValueError, match="read-only"):
        HOLD_ROW[0] = 2
