"""Figures and tables of the papers: a module computes, draws and has the command of one."""
