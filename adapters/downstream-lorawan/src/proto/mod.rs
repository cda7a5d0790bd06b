//! What travels between concentrators, devices and a network server: protocols without IO or clock.
