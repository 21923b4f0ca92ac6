"""Campaigns that try to make a training lose something; each function is called in a fresh process."""
