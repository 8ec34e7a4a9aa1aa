"""What a callable promises about its arrays: specs, names, and how values are matched to them."""

from signatures.binding import Bound as Bound
from signatures.binding import bind as bind
from signatures.errors import BindError as BindError
from signatures.errors import ExporterError as ExporterError
from signatures.errors import ResolveError as ResolveError
from signatures.errors import SignatureError as SignatureError
from signatures.errors import SpecError as SpecError
from signatures.errors import UnknownSignatureError as UnknownSignatureError
from signatures.resolver import DEFAULT as DEFAULT
from signatures.signature import Signature as Signature
from signatures.spec import Dim as Dim
from signatures.spec import TensorSpec as TensorSpec
