"""Delivery: write a list of users as files that an ad platform accepts.

Lives here: writing exports, the destinations and their rules, the formats of files, control groups, and
comparisons with earlier deliveries.
Add here when there is a new destination or format, or a delivery gets a new component.
`writing.deliver` is the entry point: for exports (`build_audience_export`) and for lists of data rooms
(`build_audience_list`). Files are written for an ad platform; nothing is sent to it.

Keep out: which users are on a list (`audiences`) and who may export what (the catalogue and the entry points).
"""
