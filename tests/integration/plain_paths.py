"""Path patching by its definition: forward hooks, one prompt and one edge at a time."""

from contextlib import ExitStack

import torch

from bkdinterp.sites import Component, Site, Where


class Plain:
    """Forwards of one model with hooks."""

    def __init__(self, model):
        self.model, self.arch, self.module = model, model.architecture, model.module

    def hook(self, stack, site, take):
        place = self.arch.location(site)
        part = self.module.get_submodule(place.path)
        if place.io == "input":

            def before(_, args, kwargs):
                name = None if args else next(iter(kwargs))
                new = take(args[0] if args else kwargs[name])
                if new is not None:
                    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

            stack.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:

            def after(_, args, out):
                new = take(out if place.item is None else out[place.item])
                if new is not None:
                    return new if place.item is None else (*out[: place.item], new, *out[place.item + 1 :])

            stack.callback(part.register_forward_hook(after).remove)

    def forward(self, prompt, changes=(), reads=()):
        """Scores of one prompt, and what stood at the read sites; changes are (site, function)."""
        batch = self.model.builder.tokenize(prompt)
        found = {}
        with ExitStack() as stack, torch.no_grad():
            for site, change in changes:
                self.hook(stack, site, change)
            for site in reads:
                self.hook(stack, site, lambda x, s=site: found.update({s: x.clone()}))
            logits = self.module(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            ).logits
        n, target = batch.n_prompt, batch.targets[0]
        picked = logits[0, n - 1 : n - 1 + len(target)].log_softmax(-1)
        return picked.gather(-1, target[:, None]).mean(), found

    def spots(self, prompt, where):
        """The tokens of one prompt that a position selects."""
        return self.model.builder.tokenize(prompt).selection(Where.of(where))[0].nonzero().flatten().tolist()

    def shares(self, prompt, sender, where):
        """What a unit adds to the stream at the selected tokens ``[token d_model]``."""
        whole = sender if sender.head is None else Site(sender.layer, "z")
        _, found = self.forward(prompt, reads=[whole])
        return torch.stack([self.share(sender, found, at) for at in self.spots(prompt, where)])

    def share(self, sender, found, at):
        """What a unit adds to the stream at a token."""
        if sender.head is None:
            return found[sender][0, at]
        z = found[Site(sender.layer, "z")][0, at]
        part = torch.zeros_like(z)
        start, stop = self.arch.channels(sender)
        part[start:stop] = z[start:stop]
        weights = self.module.get_submodule(self.arch.location(Site(sender.layer, "z")).path)
        with torch.no_grad():
            return weights(part[None])[0] - weights(torch.zeros_like(part)[None])[0]

    def edge(self, prompt, where, change, receiver):
        """Effect of changing what is written at the selected tokens, for the receiver alone."""
        base, _ = self.forward(prompt)

        def add(x):
            x = x.clone()
            x[0, self.spots(prompt, where)] += change
            return x

        if receiver is None:
            last = Site(self.arch.n_layers - 1, Component.resid_post)
            return self.forward(prompt, [(last, add)])[0] - base
        heads = receiver.head is not None
        # The sum of stream and attention changes by as much as its second part.
        into = "resid_pre" if heads or self.arch.parallel else "attn_out"
        read = Site(receiver.layer, "z") if heads else receiver
        _, received = self.forward(prompt, [(Site(receiver.layer, into), add)], [read])
        start, stop = self.arch.channels(receiver) or (0, received[read].shape[-1])

        def put(x):
            x = x.clone()
            x[..., start:stop] = received[read][..., start:stop]
            return x

        return self.forward(prompt, [(read, put)])[0] - base

    def changes(self, settings, pairs, sender):
        """For each prompt, what a patched unit writes minus what it writes now."""
        noising = settings.direction == "noising"
        edited, other = (pairs.clean, pairs.triggered) if noising else (pairs.triggered, pairs.clean)
        giving = {None: other, "pair": other, "difference": other}.get(settings.source) or getattr(
            pairs, settings.source
        )
        where = settings.where
        there = "all" if str(where) == "trigger" and giving is pairs.clean else where
        own = [self.shares(edited.subset([i]), sender, where) for i in range(len(pairs))]
        new = [self.shares(giving.subset([i]), sender, there) for i in range(len(pairs))]
        if settings.source == "pair":
            return [b - a for a, b in zip(own, new, strict=True)]
        if settings.source == "difference":
            return [torch.cat(new).mean(0) - torch.cat(own).mean(0)] * len(pairs)
        return [torch.cat(new).mean(0) - a for a in own]
