"""From a sweep file to everything that a sweep needs, before anything is started."""
