namespace LayerSkip

/// Drafting that fits a model: what options left open is decided.
[<NoEquality; NoComparison>]
type DraftingPlan = {
    Drafter: DrafterKind
    Policy: DraftPolicyKind
    StopRule: StopRuleKind
    /// The exit that drafts; with policy auto the one that does at first. None: no exit does, or the policy chooses it.
    Exit: ExitLayer option
    /// The most tokens of a round's draft; None: the drafter's or the policy's own.
    Length: int option
    /// The ids that drafts are chosen from that go through the head; None: all.
    Vocabulary: ContextVocabulary option
    /// The layers that draft, where some do.
    Layers: LayerSet option
    /// The adapter that drafts, where one does; it must go before the model does.
    Adapter: Adapter option
    Past: PastTexts option
    /// Which drafts are kept.
    Acceptance: AcceptanceRule
}

/// From names to a strategy: what `generate`, `bench`, `certify`, scripts and the C# facade make of the same options.
[<RequireQualifiedAccess>]
module Drafting =
    /// What decides where nothing is said of drafting.
    let defaultPolicy = DraftPolicyKind.Auto

    /// The most tokens that policy auto drafts in a round.
    let private longestOfAuto = 16

    /// The named policy. Numbers for a fixed drafting, and drafters that only that has, mean the static one. So does sampling, as what auto
    /// drafts depends on how fast the machine was, and one seed is to draw one text.
    let private policyOf (sampling: Sampling) (options: DraftingOptions) =
        let isFixed =
            options.StopRule.IsSome
            || options.ExitLayer.IsSome
            || options.DraftLength.IsSome
            || options.LayersKept.IsSome
            || options.Drafter = Some DrafterKind.Adapter
            || options.Drafter = Some DrafterKind.Layers

        match options.Policy, sampling with
        | Some policy, _ -> policy
        | None, Sampling.Greedy when not isFixed -> defaultPolicy
        | None, _ -> DraftPolicyKind.Static

    /// Past texts are there to be looked up; beside an exit that is named or good for drafts, that is half of a cascade.
    let private drafterOf isRecommended policy (options: DraftingOptions) =
        match options.Drafter, policy with
        | Some drafter, _ -> drafter
        | None, DraftPolicyKind.Static when options.LayersKept.IsSome -> DrafterKind.Layers
        | None, DraftPolicyKind.Auto -> DrafterKind.Cascade
        | None, DraftPolicyKind.Static when options.Past.IsSome ->
            if isRecommended || options.ExitLayer.IsSome then
                DrafterKind.Cascade
            else
                DrafterKind.Lookup
        | None, _ -> DrafterKind.Exit

    /// Whether a drafting looks up what texts said before.
    let private looksUp policy drafter =
        match policy, drafter with
        | DraftPolicyKind.Del, _ -> false
        | DraftPolicyKind.Auto, drafter -> drafter <> DrafterKind.Exit
        | DraftPolicyKind.Static, drafter -> drafter = DrafterKind.Lookup || drafter = DrafterKind.Cascade

    /// Options that a policy or a drafter has no use for would be ignored in silence.
    let private exclusions policy drafter (options: DraftingOptions) : LayerSkipError list =
        let withDrafter, withPolicy =
            $"with drafter {DrafterKind.name drafter}", $"with policy {DraftPolicyKind.name policy}"

        let values = Map.ofList (DraftingOptions.given options)

        let given (option: string) (why: string option) =
            match Map.tryFind option values, why with
            | Some value, Some why -> Check.inRange false option value $"left out {why}"
            | _ -> []

        let faultOfPolicy =
            match policy, drafter with
            | DraftPolicyKind.Auto, DrafterKind.Layers ->
                Some $"static {withDrafter}: auto chooses among exits, or an adapter, and lookup"
            | DraftPolicyKind.Del, (DrafterKind.Lookup | DrafterKind.Cascade | DrafterKind.Adapter) ->
                Some $"static or auto {withDrafter}: DEL chooses among exits"
            | DraftPolicyKind.Del, DrafterKind.Layers -> Some $"static {withDrafter}: DEL chooses among exits"
            | _ -> None

        let noRule =
            match policy, drafter with
            | DraftPolicyKind.Auto, _ -> Some $"{withPolicy}, which weighs every token of a draft"
            | DraftPolicyKind.Del, _ -> Some $"{withPolicy}, which has a threshold of its own"
            | _, DrafterKind.Lookup -> Some $"{withDrafter}, whose drafts end by themselves"
            | _ -> None

        let noExit =
            match policy, drafter with
            | DraftPolicyKind.Del, _ -> Some $"{withPolicy}, which chooses exits itself"
            | _, DrafterKind.Lookup -> Some $"{withDrafter}, which runs no layer"
            | _, DrafterKind.Layers -> Some $"{withDrafter}, which leaves after none"
            | _ -> None

        let noVocabulary =
            if drafter = DrafterKind.Lookup then
                Some $"{withDrafter}, which asks no head"
            else
                None

        let noLayers =
            if drafter = DrafterKind.Layers then
                None
            else
                Some $"{withDrafter}: it is for drafter layers"

        let noPast =
            if looksUp policy drafter then
                None
            elif policy = DraftPolicyKind.Del then
                Some $"{withPolicy}, which looks nothing up"
            else
                Some $"{withDrafter}, which looks nothing up"

        [
            match faultOfPolicy with
            | Some allowed -> yield! Check.inRange false "policy" (DraftPolicyKind.name policy) allowed
            | None ->
                yield! given "stop-rule" noRule
                yield! given "exit-layer" noExit
                yield! given "draft-vocabulary" noVocabulary
                yield! given "layers-kept" noLayers
                yield! given "past-texts" noPast
        ]

    let private exitOf policy drafter (checkpoint: Checkpoint) (options: DraftingOptions) =
        let exit (layer: int) : Result<ExitLayer option, LayerSkipError list> =
            ExitLayer.TryCreate(checkpoint.Config.Layers, layer) |> Result.map Some

        let given = options.ExitLayer |> Option.orElse (checkpoint.Recommended |> Option.map fst)

        match policy, drafter, given with
        | DraftPolicyKind.Static, (DrafterKind.Exit | DrafterKind.Cascade), _ ->
            exit (defaultArg options.ExitLayer (fst (Checkpoint.exitAndDraft checkpoint)))
        | DraftPolicyKind.Auto, (DrafterKind.Exit | DrafterKind.Cascade), Some layer -> exit layer
        // A model of one layer has no exit to choose.
        | DraftPolicyKind.Del, _, _ -> exit 1 |> Result.map (fun _ -> None)
        | _ -> Ok None

    let private layersOf drafter (checkpoint: Checkpoint) (options: DraftingOptions) =
        match drafter, options.LayersKept with
        | DrafterKind.Layers, Some text -> LayerSet.tryParse checkpoint.Config.Layers text |> Result.map Some
        | DrafterKind.Layers, None ->
            DraftLayers.recommended checkpoint
            |> Result.bind (function
                | Some set -> Ok(Some set)
                | None ->
                    Check.outOfRange
                        "layers-kept"
                        "missing"
                        "given to drafter layers, as 1-10,15,30: the model recommends no layers; scripts/layer-sets.fsx finds some")
        | _ -> Ok None

    /// `decide`, with the adapter of an exit layer (None: the model's first) as `adapters` has it.
    let decideWith
        (adapters: int option -> Result<Adapter, LayerSkipError list>)
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (options: DraftingOptions)
        : Result<DraftingPlan, LayerSkipError list> =
        let policy = policyOf sampling options
        let drafter = drafterOf checkpoint.Recommended.IsSome policy options

        let vocabulary =
            match options.DraftVocabulary with
            | Some word -> ContextVocabulary.parse "draft-vocabulary" checkpoint.Config word
            | None -> Ok None

        let length =
            options.DraftLength
            |> Option.map (fun length -> Check.all (Check.atLeast 1 "draft-length" length) ())
            |> Option.defaultValue (Ok())

        let acceptance = defaultArg options.Acceptance AcceptanceRule.exact

        // Last, for it has to be freed.
        let adapter () =
            if drafter = DrafterKind.Adapter then
                adapters options.ExitLayer |> Result.map Some
            else
                Ok None

        Check.both (exitOf policy drafter checkpoint options) (layersOf drafter checkpoint options)
        |> Check.both (Check.both (Check.both length (Check.all acceptance.Faults ())) vocabulary)
        |> Check.both (Check.all (exclusions policy drafter options) ())
        |> Result.map snd
        |> Result.bind (fun found -> adapter () |> Result.map (fun adapter -> found, adapter))
        |> Result.map (fun (((_, vocabulary), (exit, layers)), adapter) -> {
            Drafter = drafter
            Policy = policy
            StopRule = defaultArg options.StopRule StopRuleKind.Never
            Exit = adapter |> Option.map _.Exit |> Option.orElse exit
            Length =
                match policy, drafter with
                | DraftPolicyKind.Static, DrafterKind.Lookup
                | DraftPolicyKind.Auto, _
                | DraftPolicyKind.Del, _ -> options.DraftLength
                | _ -> Some(defaultArg options.DraftLength (snd (Checkpoint.exitAndDraft checkpoint)))
            Vocabulary = vocabulary
            Layers = layers
            Adapter = adapter
            Past = options.Past
            Acceptance = acceptance
        })

    /// What options come to for a model, whose recommended exit layer and draft length (or a third of its layers, and 4) stand for those that
    /// are not named; where an adapter drafts, it is loaded for the plan. Errors, all at once: options that exclude each other, an exit, layers or
    /// an adapter that the model has not, a draft vocabulary that cannot be read.
    let decide
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (options: DraftingOptions)
        : Result<DraftingPlan, LayerSkipError list> =
        decideWith (fun exit -> Adapters.load exit checkpoint) sampling checkpoint options

    /// Whether a plan weighs what passes cost (`PassCostsCache`).
    let asksCosts (plan: DraftingPlan) : bool =
        plan.Policy = DraftPolicyKind.Auto || plan.StopRule = StopRuleKind.Marginal

    /// A plan that looks up in past texts too, where it looks up at all and in none yet.
    let remembering (past: PastTexts) (plan: DraftingPlan) : DraftingPlan =
        if plan.Past.IsNone && looksUp plan.Policy plan.Drafter then
            { plan with Past = Some past }
        else
            plan

    /// The errors of `decide`, with nothing to keep.
    let faults (checkpoint: Checkpoint) (options: DraftingOptions) : LayerSkipError list =
        match decide Sampling.Greedy checkpoint options with
        | Ok plan ->
            plan.Adapter |> Option.iter (fun adapter -> (adapter :> System.IDisposable).Dispose())
            []
        | Error faults -> faults

    /// Whether options leave a use for an exit layer, however deep the model.
    let takesExit (options: DraftingOptions) : bool =
        // A number of either kind means the static policy, which a grid of exits and lengths names.
        let policy = defaultArg options.Policy DraftPolicyKind.Static

        match policy, drafterOf false policy options with
        | (DraftPolicyKind.Static | DraftPolicyKind.Auto), (DrafterKind.Exit | DrafterKind.Cascade) -> true
        | _ -> false

    /// What drafts, and the most tokens of a round's draft, where they are fixed.
    let private drafterWith
        (rule: unit -> StopRule)
        (costs: unit -> PassCosts)
        (checkpoint: Checkpoint)
        (plan: DraftingPlan)
        =
        let layers = checkpoint.Config.Layers

        match plan.Policy, plan.Drafter with
        | DraftPolicyKind.Auto, drafter ->
            let options: AutoOptions = {
                Costs = costs ()
                Exits =
                    if drafter = DrafterKind.Lookup then
                        []
                    else
                        AutoDrafter.candidates layers plan.Exit
                Start = plan.Exit
                Longest = defaultArg plan.Length longestOfAuto
                Lookup = drafter <> DrafterKind.Exit
                Past = plan.Past
            }

            (match plan.Adapter with
             | Some adapter -> AutoDrafter.createOver adapter options
             | None -> AutoDrafter.create options),
            None
        | DraftPolicyKind.Del, _ ->
            AdaptivePolicies.del false layers [||]
            |> Drafter.ofPolicy (ExitLayer.All layers) 32 StopRule.never,
            plan.Length
        | DraftPolicyKind.Static, DrafterKind.Lookup -> Drafter.suffixLookup plan.Past, plan.Length
        | DraftPolicyKind.Static, DrafterKind.Cascade ->
            CascadeDrafter.create (rule ()) plan.Exit.Value plan.Length.Value plan.Past, None
        | DraftPolicyKind.Static, DrafterKind.Layers ->
            Drafter.layersUntil (rule ()) plan.Layers.Value, plan.Length
        | DraftPolicyKind.Static, DrafterKind.Adapter ->
            AdapterDrafter.until (rule ()) plan.Adapter.Value, plan.Length
        | DraftPolicyKind.Static, DrafterKind.Exit ->
            Drafter.earlyExitUntil (rule ()) plan.Exit.Value, plan.Length

    let private strategyOf rule costs checkpoint (plan: DraftingPlan) : Strategy =
        let drafter, length = drafterWith rule costs checkpoint plan

        let strategy =
            match length with
            | Some length -> Strategy.Speculative(drafter, LengthPolicy.Fixed length)
            | None -> Strategy.Adaptive drafter

        { strategy with Vocabulary = plan.Vocabulary; Acceptance = plan.Acceptance }

    /// `strategy`, with passes that cost what `costs` says; it is asked by policy auto and the marginal rule alone.
    let strategyWith (costs: unit -> PassCosts) (checkpoint: Checkpoint) (plan: DraftingPlan) : Strategy =
        let rule () = StopRule.create (costs >> PassCosts.round) plan.StopRule
        strategyOf rule costs checkpoint plan

    let private measured (checkpoint: Checkpoint) (plan: DraftingPlan) () =
        PassCostsCache.get plan.Vocabulary checkpoint

    /// `strategy`, whose drafts of a static policy end by a rule that no plan names.
    let strategyUntil (rule: StopRule) (checkpoint: Checkpoint) (plan: DraftingPlan) : Strategy =
        strategyOf (fun () -> rule) (measured checkpoint plan) checkpoint plan

    /// The strategy of a plan, one for any number of texts. What passes cost is measured once where that counts (`PassCostsCache`).
    let strategy (checkpoint: Checkpoint) (plan: DraftingPlan) : Strategy =
        strategyWith (measured checkpoint plan) checkpoint plan

    /// `decide` and `strategy`.
    let create
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (options: DraftingOptions)
        : Result<Strategy, LayerSkipError list> =
        decide sampling checkpoint options |> Result.map (strategy checkpoint)

    /// The name of a strategy as options have it: whatever drafts for a model, it is itself that drafts, or its text.
    let internal nameOf (strategy: Strategy) (plan: DraftingPlan option) : string =
        if plan.IsSome then "self-speculative" else strategy.Name

    /// The layer to leave after, for drafts or for good; with policy auto the one that drafts at first. None: none is said.
    let internal exitNamed (strategy: Strategy) (plan: DraftingPlan option) : int option =
        match plan with
        | Some plan -> plan.Exit |> Option.map _.Layers
        | None -> strategy.Exit |> Option.map _.Layers

    /// What options mean where self-speculation itself is named: without more the paper's, the model's exit layer and draft length.
    let ofSelfSpeculative (options: DraftingOptions) : DraftingOptions =
        if (DraftingOptions.named { options with Acceptance = None }).IsEmpty then
            { options with Policy = Some DraftPolicyKind.Static }
        else
            options

    /// Whether a decoding drafts of which no strategy is named: where the model or an option gives a reason for it.
    let isMeant (checkpoint: Checkpoint) (options: DraftingOptions) : bool =
        checkpoint.Recommended.IsSome || not (DraftingOptions.named options).IsEmpty
