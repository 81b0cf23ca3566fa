"""File layouts of open datasets, one dataset per module; the datasets are not part of this
package.
"""

from muse_pipeline.core.registry import Registry

LAYOUTS: Registry = Registry("layout", "muse_pipeline.labels.layouts")
