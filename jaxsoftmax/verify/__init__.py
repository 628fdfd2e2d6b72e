"""The certificate: theorems about an implementation's values and derivatives, and the machinery that judges them.

>>> from jaxsoftmax.verify import certify
>>> report = certify(theorems=["M7"], dtypes=["float32"], quick=True)
>>> report.passed
True
"""

from jaxsoftmax.verify._certificate import certify as certify
from jaxsoftmax.verify._record import Gap as Gap
from jaxsoftmax.verify._record import Report as Report
from jaxsoftmax.verify._record import Row as Row
from jaxsoftmax.verify._record import Verdict as Verdict
from jaxsoftmax.verify._theorem import Claim as Claim
from jaxsoftmax.verify._theorem import Inputs as Inputs
from jaxsoftmax.verify._theorem import Theorem as Theorem
from jaxsoftmax.verify._theorems import THEOREMS as THEOREMS
