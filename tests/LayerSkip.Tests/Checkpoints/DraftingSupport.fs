module LayerSkip.Tests.DraftingSupport

open LayerSkip

/// Times that make drafts worth something.
let cheap (layers: int) : PassCosts = {
    Rows = Array.init 17 (fun row -> 1.0 + 0.01 * float row)
    DraftBase = 0.01
    DraftLayer = 0.5 / float layers
}

/// Every rule, by name.
let rules = [
    StopRuleKind.Never
    StopRuleKind.Confidence 0.06
    StopRuleKind.DraftVerify
    StopRuleKind.AdaEdl
    StopRuleKind.Del
    StopRuleKind.Marginal
]

/// Every policy and drafter that a model of so many layers can have, with each stop rule that ends its drafts; an adapter is the
/// checkpoint's alone.
let every (layers: int) : DraftingOptions list =
    let none = DraftingOptions.none
    let kept = Some(if layers > 2 then $"1,{layers}" else "1")
    let static' = { none with Policy = Some DraftPolicyKind.Static }
    let auto = { none with Policy = Some DraftPolicyKind.Auto }

    [
        for rule in rules do
            for drafter in [ DrafterKind.Exit; DrafterKind.Cascade ] do
                { static' with Drafter = Some drafter; StopRule = Some rule }

            { static' with LayersKept = kept; StopRule = Some rule }

        { static' with Drafter = Some DrafterKind.Lookup }
        { none with Policy = Some DraftPolicyKind.Del }
        auto
        { auto with ExitLayer = Some 1 }

        for drafter in [ DrafterKind.Exit; DrafterKind.Lookup; DrafterKind.Cascade ] do
            { auto with Drafter = Some drafter }
    ]

/// As a test names it.
let told (options: DraftingOptions) =
    let name kind spell = kind |> Option.map spell |> Option.defaultValue "-"

    $"policy {name options.Policy DraftPolicyKind.name}, drafter {name options.Drafter DrafterKind.name}, "
    + $"rule {name options.StopRule StopRule.spell}, exit %A{options.ExitLayer}, layers %A{options.LayersKept}, "
    + $"vocabulary %A{options.DraftVocabulary}, length %A{options.DraftLength}"
