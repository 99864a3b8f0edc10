"""The tiny bases in ``dataset/base/``: their text, written by a teacher, their vocabularies and their training. ``scripts/pretrain_tiny.sh``"""
