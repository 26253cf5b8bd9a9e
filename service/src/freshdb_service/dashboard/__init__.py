"""The dashboard: one page at ``/``, which is a client of the REST API.

The page needs no build step and no external files. Its plain ES modules and style sheet in ``page/`` are packaged in the
wheel and served from memory. Its Content-Security-Policy allows its own origin only, and text never becomes markup, because
names of holders, labels and events are untrusted input.

====================  ================================================================================================
``page/app.js``       start, navigation, authentication and refresh
``page/views.js``     table of views, of which each ``view-*.js`` fetches its data and draws it
``page/api.js``       requests, errors and the token
``page/live.js``      event stream, and refresh at a limited rate
``page/dom.js``       elements, and updates of the document tree
``page/charts.js``    charts, and ``page/table.js`` tables
``page/actions.js``   actions of the user, with their confirmations
``page/parts.js``     parts of several views, and ``page/format.js`` numbers, durations and instants
====================  ================================================================================================
"""

from freshdb_service.dashboard.routes import install

__all__ = ["install"]
