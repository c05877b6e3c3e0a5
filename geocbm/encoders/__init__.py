"""Image, text and location encoders behind three small interfaces.

Every image encoder gives one pooled vector per picture and one vector per position of a grid laid over it, whatever the
architecture. The text encoder turns prompts into base prototypes; the location encoder turns coordinates into the
embedding that images are aligned with. All of them are frozen and in evaluation mode as loaded.
"""

from geocbm.data.images.photographs import open_picture, to_rgb
from geocbm.encoders.image import ImageEncoder, ImageFeatures, load_image_encoder
from geocbm.encoders.loading import find_model_folder
from geocbm.encoders.location import load_gallery, load_geoclip_head, load_location_encoder
from geocbm.encoders.text import TextEncoder, load_text_encoder, prototypes
