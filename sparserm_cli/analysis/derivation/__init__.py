"""New reward models made of fitted ones: edit and adapt."""
