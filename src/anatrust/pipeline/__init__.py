"""The way of one scan: inspect, reject, verdict; and what is learnt from a cohort."""
