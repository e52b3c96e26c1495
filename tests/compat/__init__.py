"""Does mmhall say the same on every version of transformers it allows? `make compat` asks the oldest and the newest."""
