import re

import pytest

from xvoken.pages.charts import Bar, bars, curve
from xvoken.pages.good import good_html, training_html

RECALLS = {"R1": 20.0, "R5": 40.0, "R10": 60.0, "median_rank": 7.0}
RECORD = {
    "epoch": 1, "loss": 0.5, "captions": 10, "images": 5, "text_to_image": RECALLS, "image_to_text": RECALLS,
    "chance": {direction: {"R1": 1.0, "R5": 5.0, "R10": 10.0} for direction in ("text_to_image", "image_to_text")},
}  # fmt: skip


def test_a_curve_tells_its_values_and_the_epoch_taken():
    drawn = curve("Loss <b>", "of training", [(0, 3.0), (1, 1.5), (2, 0.75), (3, 0.9)], taken=2)
    assert 'role="img" aria-label="Loss &lt;b&gt;, of training: 3 at epoch 0, 0.9 at epoch 3; epoch 2 was taken, 0.75"' in drawn
    assert "taken: epoch 2, 0.75</text>" in drawn and drawn.count("<circle") == 1
    points = [tuple(map(float, point.split(","))) for point in re.search('points="(.*?)"', drawn)[1].split()]
    assert points[0] == (44, 16) and [x for x, _ in points] == sorted(x for x, _ in points)  # 3 is the top of the scale
    assert points[1][1] - 16 == pytest.approx((190 - 16) / 2, abs=0.1)


@pytest.mark.parametrize("value", [0.0, 1e-9, 99.999, 12345.0])
def test_a_curve_of_one_epoch_stays_on_its_paper(value):
    numbers = [float(y) for y in re.findall(r'y\d?="([-\d.]+)"', curve("Loss", "", [(5, value)], 5))]
    assert all(0 <= y <= 230 for y in numbers)


def test_bars_have_intervals_and_chance_on_one_scale():
    one, other = (bars("R", "percent", [Bar("R@1", value, value - 5, value + 5, 1.0)], 60) for value in (20.0, 40.0))
    widths = [float(re.search('class="bar" .*?width="(.*?)"', drawn)[1]) for drawn in (one, other)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert "20.0 (15 to 25)" in one and "R@1 20.0, by chance 1.0" in one and 'class="whisker"' in one
    assert 'class="whisker"' not in bars("R", "percent", [Bar("R@1", 20.0)], 60)


def test_a_matcher_in_closed_form():
    """It says what was chosen, and draws no curve where nothing was trained."""
    choice = {"weights": {"cca": 1.0, "classes<": 0.5}, "directions": 512, "ridge": 3.0, "power": 1.0, "hubness": 0.25}
    solved = {**RECORD, "epoch": 0, "loss": None}
    told = training_html([solved], choice, 0)
    assert "cca (weight 1) and classes&lt; (weight 0.5); 512 directions, ridge 3, power" in told and "polyline" not in told
    assert "so there was none" in told
    trained = training_html([solved, RECORD, {**RECORD, "epoch": 2, "loss": float("nan")}], choice, 1)
    assert trained.count("<polyline") == 3 and "so were the epochs" in trained and "nan" not in trained


def test_nothing_is_said_of_a_model_of_which_nothing_is_known():
    assert good_html([], None, None, {}) == ""
    told = good_html([RECORD], None, 1, {"set<1>": RECORD})
    assert "set&lt;1&gt;, text to image" in told and told.count('class="bar"') == 6 and "epoch 1 was taken" in told
