/// Rules as their definition has them, over whole rows of logits; constraints to try them with; and strategies to hold them against.
module LayerSkip.Tests.RulesSupport

open System
open Expecto
open LayerSkip
open LayerSkip.Tests.Tiny

let private scramble (state: int) (id: int) =
    let x = uint64 state * 0x9E3779B97F4A7C15UL + uint64 (id + 1) * 0xC2B2AE3D27D4EB4FUL
    let x = (x ^^^ (x >>> 31)) * 0xD6E8FEB86659FD93UL
    int ((x ^^^ (x >>> 29)) &&& 0x3fffffffUL)

/// A constraint from which ids may follow a state, and which state comes then. To go on from an id that was not allowed, or from one that ends
/// the text, is a fault of whoever does.
let rec machine
    (allows: 'State -> int -> bool)
    (next: 'State -> int -> 'State)
    stops
    vocabulary
    state
    : TokenConstraint = {
    new TokenConstraint with
        member _.Allows mask =
            for id in 0 .. vocabulary - 1 do
                if allows state id then
                    mask[id / 64] <- mask[id / 64] ||| (1UL <<< (id % 64))

        member _.Advance id =
            if not (allows state id) || List.contains id stops then
                failtest $"went on from {id}"

            machine allows next stops vocabulary (next state id)
}

/// A constraint that allows about one id in `rarity`, others after each text, and always at least one.
let random vocabulary stops rarity (seed: int) : TokenConstraint =
    let allows state id = id = state % vocabulary || scramble state id % rarity = 0
    machine allows scramble stops vocabulary (abs seed)

/// The ids that a constraint allows.
let allowed vocabulary (rule: TokenConstraint) : Set<int> =
    let mask = Array.zeroCreate ((vocabulary + 63) / 64)
    rule.Allows(Span mask)
    set [
        for id in 0 .. vocabulary - 1 do
            if (mask[id / 64] >>> (id % 64)) &&& 1UL = 1UL then
                id
    ]

/// The definition: each logit by itself, from the whole text.
let ruled (rules: TokenRules) (prompt: int[]) (text: int[]) (logits: float[]) : float[] =
    let times id ids = ids |> Array.filter ((=) id) |> Array.length

    let allows =
        match rules.Constraint with
        | None -> fun _ -> true
        | Some rule ->
            let after = text |> Array.fold (fun (rule: TokenConstraint) id -> rule.Advance id) rule
            let ids = allowed logits.Length after
            fun id -> ids.Contains id

    logits
    |> Array.mapi (fun id logit ->
        if not (allows id) then
            -infinity
        else
            let biased =
                logit
                + List.sum [
                    for other, bias in rules.LogitBias do
                        if other = id then
                            bias
                ]

            let repeated =
                if times id prompt + times id text = 0 then biased
                elif biased > 0.0 then biased / rules.RepetitionPenalty
                else biased * rules.RepetitionPenalty

            let count = times id text
            let present = if count > 0 then rules.PresencePenalty else 0.0
            float (float32 (repeated - rules.FrequencyPenalty * float count - present)))

/// What the layers up to an exit, or all, say after ids: read anew, as a prompt.
let logitsAfter (weights: Weights) (exit: ExitLayer option) (ids: int[]) : float[] =
    use _inference = Scope.inference ()
    let layers = exit |> Option.map _.Layers |> Option.defaultValue weights.Config.Layers
    let cache = Cache.create weights layers ids.Length
    use _storage = cache.Slab
    let struct (hidden, _) = Model.forwardEarly weights ids cache
    (Model.logits hidden |> Logits.toFloats)[0]

/// The largest, of equal ones the first.
let best (logits: float[]) : int = Array.IndexOf(logits, Array.max logits)

/// The greedy text by definition.
let written weights exit (options: GenerationOptions) (prompt: int[]) : int[] =
    let rec go (text: int[]) =
        if text.Length = options.MaxNewTokens then
            text
        else
            let next =
                Array.append prompt text
                |> logitsAfter weights exit
                |> ruled options.Rules prompt text
                |> best

            if Array.contains next options.StopIds then
                text
            else
                go (Array.append text [| next |])

    go [||]

let private penalties = [ 1.0; 1.0; 1.3; 0.8; 3.0 ]
let private prices = [ 0.0; 0.0; 0.4; -0.3; 2.0 ]

/// Some rules, any of which may be off.
let rulesOf vocabulary stops (seed: int) : TokenRules =
    let random' = Random seed
    let one (choices: 'T list) = choices[random'.Next choices.Length]

    {
        RepetitionPenalty = one penalties
        PresencePenalty = one prices
        FrequencyPenalty = one prices
        LogitBias = [
            for _ in 1 .. one [ 0; 0; 1; 4 ] -> random'.Next vocabulary, one [ -100.0; -1.5; 0.5; 2.0; 100.0 ]
        ]
        Constraint =
            one [ None; Some 2; Some 5; Some 50 ]
            |> Option.map (fun rarity -> random vocabulary stops rarity seed)
    }

/// An exit, each kind of drafter, the policies, and drafts from some ids.
let strategies (weights: Weights) (exitLayer: int) (draft: int) : (string * Strategy) list =
    let config = weights.Config
    let exit = Tiny.exit config.Layers exitLayer
    let fixed' drafter = Strategy.Speculative(drafter, LengthPolicy.Fixed draft)
    let few = ContextVocabulary.ofList [| 3; 5; 2 |]
    let adapter = Adapter.initial 5L 1 AdapterForm.Norm exit weights
    let adapter =
        if weights.Kernels.IsSome then
            Adapter.withKernels adapter
        else
            adapter

    let layers =
        LayerSet.ofLayers config.Layers (if config.Layers > 2 then [ 1; config.Layers ] else [ 1 ])
        |> Check.getOrRaise

    let del =
        let checkpoint = Checkpoint.ofWeights "tiny" weights None

        Drafting.decide Sampling.Greedy checkpoint {
            DraftingOptions.none with
                Policy = Some DraftPolicyKind.Del
        }
        |> Result.map (Drafting.strategyWith (fun () -> DraftingSupport.cheap config.Layers) checkpoint)
        |> Check.getOrRaise

    let auto = {
        AutoOptions.Costs = DraftingSupport.cheap config.Layers
        Exits = [ for layer in 1 .. config.Layers - 1 -> Tiny.exit config.Layers layer ]
        Start = Some exit
        Lookup = true
        Past = None
        Longest = 8
    }

    [
        "exit", Strategy.SelfSpeculative(exit, draft)
        "sure", fixed' (Drafter.earlyExitUntil (StopRule.confidence 0.1) exit)
        "entropy", fixed' (Drafter.earlyExitUntil StopRule.adaEdl exit)
        // Drafts that no rule allows, and others that nobody would choose.
        "altered",
        fixed' (Drafter.alteredExit (fun place token -> (token + place % 3) % config.Vocabulary) exit)
        "prompt lookup", fixed' (Drafter.promptLookup 2)
        "suffix lookup", fixed' (Drafter.suffixLookup None)
        "cascade", fixed' (CascadeDrafter.create StopRule.never exit draft None)
        "adapter", fixed' (AdapterDrafter.create adapter)
        "layers", fixed' (Drafter.layers layers)
        "del", del
        "auto", fixed' (AutoDrafter.create auto)
        "auto without an exit", fixed' (AutoDrafter.create { auto with Start = None })
        "few ids", Strategy.SelfSpeculative(exit, draft).Within few
        "ids of the text",
        fixed'(CascadeDrafter.create StopRule.never exit draft None).Within(ContextVocabulary.around [| 5 |])
        "auto from few ids", fixed'(AutoDrafter.create auto).Within few
    ]
