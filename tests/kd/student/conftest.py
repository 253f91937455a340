"""Images and a retrainer that the tests of students share."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kd.batches import OnlineOutputs
from kd.images.splits import Data, DataSettings, load_data
from kd.run.taught import Taught
from kd.student.retraining import Retrainer
from kd.teacher.outputs import TeacherOutputs
from tests.kd.student.recording import CONFIG, INT8, SETTINGS, Numbers, Unread


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=200))


@pytest.fixture
def retrainer(data: Data, tmp_path: Path) -> Retrainer:
    """Of int8; the test split is not to be read while it trains."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10), nn.Softmax(1)).eval()
    online = OnlineOutputs(lambda images: teacher(images).detach(), (data.train.frame,))
    outputs = TeacherOutputs(**dict.fromkeys(data.splits(), online))
    shut, cpu = replace(data, test=Unread(**vars(data.test))), torch.device("cpu")
    taught = Taught(SETTINGS, shut, outputs)
    return Retrainer(CONFIG, taught, "table", "scratch", INT8, Numbers(tmp_path), cpu)
