"""What the host does around a signature, as data: texts, pictures and words in, labels out."""

from exporter.stages.image import Image as Image
from exporter.stages.labels import Labels as Labels
from exporter.stages.pipeline import Pipeline as Pipeline
from exporter.stages.tokenizer import Tokenizer as Tokenizer
from exporter.stages.vocabulary import Vocabulary as Vocabulary
