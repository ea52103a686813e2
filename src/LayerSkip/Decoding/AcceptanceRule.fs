namespace LayerSkip

open System

/// A draft and what the whole model says in its place, as an acceptance rule sees them.
[<NoEquality; NoComparison>]
type JudgedDraft = {
    Draft: Draft
    /// Among the drafts of its round, from 0.
    Place: int
    /// Where it would stand in the text, from 0; the prompt counts.
    Position: int
    /// Whether exact acceptance keeps it: greedy decoding where it is the whole model's own token, sampling by speculative sampling's draw.
    IsExact: bool
    /// The whole model's law there, [vocabulary], with token rules, temperature and filters; greedy decoding's at temperature 1. It is worked
    /// out when it is first asked for, which has to be while the rule runs.
    Law: Lazy<float[]>
}

/// Which drafts are kept. A round keeps those before the first that its rule refuses, in whose place exact acceptance has the word: a rule that
/// keeps less than that one writes the same text (and law), one that keeps more writes another.
[<NoEquality; NoComparison>]
type AcceptanceRule = private {
    spelled: string
    isExactAtMost: bool
    wrong: LayerSkipError list
    keeps: JudgedDraft -> bool
} with

    /// Whether the text stays the whole model's: the rule keeps nothing that exact acceptance does not.
    member this.IsLossless: bool = this.isExactAtMost

    /// As reports name it: "exact", "lossy top-k:2", "exact and a condition".
    member this.Name: string =
        if this.isExactAtMost then
            this.spelled
        else
            $"lossy {this.spelled}"

    /// Numbers outside their range.
    member this.Faults: LayerSkipError list = this.wrong

    /// Whether it keeps a draft.
    member this.Keeps(draft: JudgedDraft) : bool = this.keeps draft

/// Rules by name, of a function, and of two others. Those that begin with `lossy` write another text than the whole model's where they stand
/// alone; beside `exact` in `both` they only end rounds sooner.
[<RequireQualifiedAccess>]
module AcceptanceRule =
    /// What the whole model would have written itself (LayerSkip, section 4.3; sampled: Leviathan et al. 2023, algorithm 1).
    let exact: AcceptanceRule = { spelled = "exact"; isExactAtMost = true; wrong = []; keeps = _.IsExact }

    /// Keeps what a function says.
    let lossy (name: string) (keeps: JudgedDraft -> bool) : AcceptanceRule = {
        spelled = name
        isExactAtMost = false
        wrong = []
        keeps = keeps
    }

    let private within allowed isGood (rule: AcceptanceRule) = {
        rule with
            wrong = Check.inRange isGood "acceptance" rule.Name allowed
    }

    /// Keeps all: the drafter's text, but for one token of the whole model's after each round.
    let lossyAlways: AcceptanceRule = lossy "always" (fun _ -> true)

    /// Keeps the whole model's `k` most probable tokens, 1 or more; of equal ones the lower ids.
    let lossyTopK (k: int) : AcceptanceRule =
        let keeps (draft: JudgedDraft) =
            let law, token = draft.Law.Value, draft.Draft.Token
            let own = law[token]
            let mutable before = 0

            for id in 0 .. law.Length - 1 do
                if law[id] > own || law[id] = own && id < token then
                    before <- before + 1

            own > 0.0 && before < k

        lossy $"top-k:{k}" keeps |> within "top-k:1 or more" (k >= 1)

    let private spell (number: float) = number.ToString("R", Globalization.CultureInfo.InvariantCulture)

    /// Keeps what is at least `share` times as probable as the whole model's most probable token, above 0 and at most 1.
    let lossyRatio (share: float) : AcceptanceRule =
        let keeps (draft: JudgedDraft) =
            let law = draft.Law.Value
            law[draft.Draft.Token] >= share * Array.max law

        lossy $"ratio:{spell share}" keeps
        |> within "ratio:R with R above 0 and at most 1" (share > 0.0 && share <= 1.0)

    /// Typical acceptance (Medusa, Cai et al. 2024, arXiv 2401.10774): keeps what is more probable than the lesser of `most`, above 0 and below
    /// 1, and `share` exp(-H), above 0, where H is the entropy of the whole model's law in nats. Medusa's numbers are 0.09 and 0.3.
    let lossyTypical (most: float) (share: float) : AcceptanceRule =
        let keeps (draft: JudgedDraft) =
            let law = draft.Law.Value
            law[draft.Draft.Token] > min most (share * exp -(Sampling.entropy law))

        lossy $"typical:{spell most},{spell share}" keeps
        |> within
            "typical:M,S with M above 0 and below 1, and S a number above 0"
            (most > 0.0 && most < 1.0 && share > 0.0 && Double.IsFinite share)

    let private joined word isExactAtMost keeps (a: AcceptanceRule) (b: AcceptanceRule) = {
        spelled = $"{a.spelled} {word} {b.spelled}"
        isExactAtMost = isExactAtMost
        wrong = a.wrong @ b.wrong
        keeps = keeps
    }

    /// Keeps what both keep; the second is asked of what the first keeps.
    let both (a: AcceptanceRule) (b: AcceptanceRule) : AcceptanceRule =
        let keeps draft = a.keeps draft && b.keeps draft
        joined "and" (a.IsLossless || b.IsLossless) keeps a b

    /// Keeps what one of them keeps; the second is asked of what the first does not.
    let either (a: AcceptanceRule) (b: AcceptanceRule) : AcceptanceRule =
        let keeps draft = a.keeps draft || b.keeps draft
        joined "or" (a.IsLossless && b.IsLossless) keeps a b

    /// Keeps what a rule keeps where a condition holds: as lossless as the rule.
    let onlyIf (condition: JudgedDraft -> bool) (rule: AcceptanceRule) : AcceptanceRule =
        both rule (lossy "a condition" condition)

    /// What a rule makes of drafts by their place and of whether exact acceptance keeps them; only rules that look at more ask `see`.
    let internal decider (see: int -> bool -> JudgedDraft) (rule: AcceptanceRule) : int -> bool -> bool =
        if obj.ReferenceEquals(rule, exact) then
            fun _ isExact -> isExact
        else
            fun place isExact -> rule.keeps (see place isExact)
