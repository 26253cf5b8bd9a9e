"""The dashboard: one page at ``/``, which asks the REST interface like every other client.

The page needs no build step and nothing from elsewhere: plain ES modules and one style sheet in ``page/``, packaged in the
wheel and served from memory. Its Content-Security-Policy lets it load from its own origin alone, and no text becomes markup:
names of holders, labels and events are hostile input.

====================  ================================================================================================
``page/app.js``       starts it: which view, who is asking, what is fetched when
``page/views.js``     the table of views; each ``view-*.js`` fetches its data and draws it
``page/api.js``       calls, errors and the token
``page/live.js``      the stream of events, and fetching again without hammering
``page/dom.js``       elements, and the change from one tree to the next
``page/charts.js``    charts, and ``page/table.js`` tables
``page/actions.js``   what a person can do, each asked for once more
``page/parts.js``     what several views draw; ``page/format.js`` numbers, durations and instants
====================  ================================================================================================
"""

from freshdb_service.dashboard.routes import POLICY, install

__all__ = ["POLICY", "install"]
