"""The mini world: a generated data set in the real ones' file formats, for a first run without downloads.

`vocabulary` lists verbs, nouns and scenes; `plan` and `epic` decide what happens; `motion`, `picture` and `sound`
render it; `generate` writes the files.
"""

from mc3.world.generate import write as write
