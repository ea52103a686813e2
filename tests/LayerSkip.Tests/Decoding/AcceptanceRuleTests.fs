module LayerSkip.Tests.AcceptanceRuleTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

/// Rules as FsCheck makes them; a condition looks at the token's parity or at its place.
type private Tree =
    | Exact
    | Always
    | Even
    | Early
    | Both of Tree * Tree
    | Either of Tree * Tree
    | OnlyIfEven of Tree

let private isEven (draft: JudgedDraft) = draft.Draft.Token % 2 = 0

let rec private rule (tree: Tree) : AcceptanceRule =
    match tree with
    | Exact -> AcceptanceRule.exact
    | Always -> AcceptanceRule.lossyAlways
    | Even -> AcceptanceRule.lossy "even" isEven
    | Early -> AcceptanceRule.lossy "early" (fun draft -> draft.Place < 1)
    | Both(a, b) -> AcceptanceRule.both (rule a) (rule b)
    | Either(a, b) -> AcceptanceRule.either (rule a) (rule b)
    | OnlyIfEven inner -> AcceptanceRule.onlyIf isEven (rule inner)

let rec private holds (tree: Tree) (draft: JudgedDraft) =
    match tree with
    | Exact -> draft.IsExact
    | Always -> true
    | Even -> isEven draft
    | Early -> draft.Place < 1
    | Both(a, b) -> holds a draft && holds b draft
    | Either(a, b) -> holds a draft || holds b draft
    | OnlyIfEven inner -> holds inner draft && isEven draft

let private judged token place isExact (law: float[]) : JudgedDraft = {
    Draft = Draft.certain token
    Place = place
    Position = 10 + place
    IsExact = isExact
    Law = lazy law
}

let private every = [
    for token in 0..1 do
        for place in 0..1 do
            for isExact in [ false; true ] do
                judged token place isExact [| 0.5; 0.5 |]
]

/// A law of some whole numbers.
let private law (weights: int[]) =
    let weights = weights |> Array.map (fun weight -> 1.0 + float (abs (weight % 9)))
    weights |> Array.map (fun weight -> weight / Array.sum weights)

let private many = { FsCheckConfig.defaultConfig with maxTest = 2000 }

let private algebra = [
    testPropertyWithConfig
        many
        "a rule keeps what its parts say, and says that it is lossless only where it is"
    <| fun (tree: Tree) ->
        let rule = rule tree

        for draft in every do
            Expect.equal (rule.Keeps draft) (holds tree draft) rule.Name

        if rule.IsLossless then
            for draft in every do
                Expect.isTrue (not (rule.Keeps draft) || draft.IsExact) rule.Name

        Expect.equal (rule.Name.StartsWith "lossy") (not rule.IsLossless) "its name says the same"

    testPropertyWithConfig many "the named ones are what they say"
    <| fun (a: int) (b: int) (c: int) (d: int) (PositiveInt k) (PositiveInt share) ->
        let law = law [| a; b; c; d |]
        let k, share = 1 + k % 4, float (1 + share % 10) / 10.0
        let entropy = -(law |> Array.sumBy (fun p -> p * log p))
        let best = law |> Array.indexed |> Array.sortBy (fun (id, p) -> -p, id) |> Array.map fst

        for token in 0..3 do
            let keeps (rule: AcceptanceRule) = rule.Keeps(judged token 0 false law)
            let own = law[token]

            Expect.equal
                (keeps (AcceptanceRule.lossyTopK k))
                (Array.contains token best[.. k - 1])
                "among the k likeliest"

            Expect.equal
                (keeps (AcceptanceRule.lossyRatio share))
                (own >= share * Array.max law)
                "near the best"

            Expect.equal
                (keeps (AcceptanceRule.lossyTypical 0.2 share))
                (own > min 0.2 (share * exp -entropy))
                "typical"

            Expect.isTrue (keeps AcceptanceRule.lossyAlways) "always"

    testCase "numbers outside their range are all told" (fun () ->
        let wrong =
            AcceptanceRule.both
                (AcceptanceRule.lossyTopK 0)
                (AcceptanceRule.either (AcceptanceRule.lossyRatio 1.5) (AcceptanceRule.lossyTypical nan -1.0))

        Expect.equal
            (wrong.Faults |> List.map LayerSkipError.message)
            [
                "acceptance is lossy top-k:0, it must be top-k:1 or more"
                "acceptance is lossy ratio:1.5, it must be ratio:R with R above 0 and at most 1"
                "acceptance is lossy typical:NaN,-1, it must be typical:M,S with M above 0 and below 1, and S a number above 0"
            ]
            "three"

        Expect.isEmpty AcceptanceRule.exact.Faults "and none")
]

/// What a round writes: the drafts that are kept, and one more.
let private written (drafts: int[]) (struct (agreed: int, next: int voption)) =
    Array.append drafts[.. agreed - 1] (ValueOption.toArray next)

let private startsWith (whole: int[]) (part: int[]) =
    part.Length > 0 && part = Array.truncate part.Length whole

/// Drafts of three tokens with their laws, the whole model's laws, uniforms, and which places a condition agrees to.
let private sampledCase (seed: int) =
    let random = System.Random seed
    let some () = law (Array.init 3 (fun _ -> random.Next 9))
    let length = random.Next 5

    let drafts =
        Array.init length (fun _ ->
            let law = some ()
            Draft.drawn law (Sampling.pick law (random.NextDouble())))

    let laws = Array.init (length + 1) (fun _ -> some ())
    let uniforms = Array.init (length + 1) (fun _ -> random.NextDouble())
    let agrees = Array.init length (fun _ -> random.Next 3 > 0)
    drafts, laws, uniforms, agrees

let private rounds = [
    testPropertyWithConfig
        many
        "greedy: what only refuses more writes a beginning of what exact acceptance writes"
    <| fun (NonNegativeInt seed) ->
        let random = System.Random seed
        let drafts = Array.init (random.Next 6) (fun _ -> random.Next 2)
        let verdicts = Array.init (drafts.Length + random.Next 2) (fun _ -> random.Next 2)
        let exact = Acceptance.greedy verdicts drafts |> written drafts

        let stricter =
            Acceptance.greedyBy (fun place isExact -> isExact && place % 3 < 1 + seed % 2) verdicts drafts

        verdicts.Length = 0 || startsWith exact (written drafts stricter)

    testPropertyWithConfig many "sampled: so it does, draw for draw, so that the law stays the whole model's"
    <| fun (seed: int) ->
        let drafts, laws, uniforms, agrees = sampledCase seed

        let tokens keeps =
            let struct (agreed, law) = Acceptance.sampledBy keeps uniforms laws drafts
            let next = law |> ValueOption.map (fun law -> Sampling.pick law uniforms[drafts.Length])
            written (drafts |> Array.map _.Token) (struct (agreed, next))

        startsWith
            (tokens (fun _ isExact -> isExact))
            (tokens (fun place isExact -> isExact && agrees[place]))

    testPropertyWithConfig many "what keeps all writes the drafts, and one token more"
    <| fun (seed: int) ->
        let drafts, laws, uniforms, _ = sampledCase seed
        let tokens = drafts |> Array.map _.Token
        let struct (agreed, next) = Acceptance.sampledBy (fun _ _ -> true) uniforms laws drafts
        let struct (greedily, own) =
            Acceptance.greedyBy (fun _ _ -> true) (Array.append tokens [| 7 |]) tokens

        (agreed, next) = (drafts.Length, ValueSome laws[drafts.Length])
        && (greedily, own) = (tokens.Length, ValueSome 7)
]

let private self (case: Case) =
    Strategy.SelfSpeculative(Tiny.exit case.Model.Config.Layers case.Exit, case.Draft)

let private text (weights: Weights) (case: Case) strategy limit : Completion =
    Generation.complete weights None (GenerationOptions.greedy strategy limit) case.Prompt
    |> Check.getOrRaise

let private live = [
    for dtype in [ Dtype.F32; Dtype.F64 ] do
        testPropertyWithConfig (Tiny.settings 15) $"{dtype}: lossless rules write the whole model's text"
        <| fun (case: Case) ->
            use weights = Tiny.weights dtype case.Model
            let plain = text weights case Strategy.Autoregressive 24
            Expect.isTrue plain.IsLossless "it is its own"

            for rule in
                [
                    AcceptanceRule.exact
                    AcceptanceRule.both AcceptanceRule.exact (AcceptanceRule.lossyTopK 3)
                    AcceptanceRule.onlyIf (fun draft -> draft.Place < 1) AcceptanceRule.exact
                    AcceptanceRule.onlyIf
                        (fun draft -> draft.Law.Value[draft.Draft.Token] > 0.1)
                        AcceptanceRule.exact
                    AcceptanceRule.onlyIf (fun draft -> draft.Position % 3 > 0) AcceptanceRule.exact
                    AcceptanceRule.both (AcceptanceRule.lossy "none" (fun _ -> false)) AcceptanceRule.exact
                ] do
                let made = text weights case ((self case).Accepting rule) 24
                Expect.equal made.TokenIds plain.TokenIds rule.Name
                Expect.equal (made.IsLossless, made.LooseTokens) (true, 0) rule.Name
                Expect.equal made.Acceptance rule.Name "it says by what rule"

            // The likeliest token alone is greedy decoding's own.
            let likeliest = text weights case ((self case).Accepting(AcceptanceRule.lossyTopK 1)) 24
            Expect.equal likeliest.TokenIds plain.TokenIds "top-k:1"

    testPropertyWithConfig (Tiny.settings 25) "what keeps all writes the exit's own drafts"
    <| fun (case: Case) ->
        use weights = Tiny.weights Dtype.F32 case.Model
        let exit = Tiny.exit case.Model.Config.Layers case.Exit
        let made = text weights case ((self case).Accepting AcceptanceRule.lossyAlways) 20
        Expect.isFalse made.IsLossless "another text"
        Expect.equal made.Acceptance "lossy always" "and why"

        let early from count =
            let prompt = Array.append case.Prompt made.TokenIds[.. from - 1]
            let options = GenerationOptions.greedy (Strategy.EarlyExit exit) count
            (Generation.complete weights None options prompt |> Check.getOrRaise).TokenIds

        let whole from =
            let prompt = Array.append case.Prompt made.TokenIds[.. from - 1]
            let options = GenerationOptions.greedy Strategy.Autoregressive 1
            (Generation.complete weights None options prompt |> Check.getOrRaise).TokenIds[0]

        let ends =
            made.Stats.Rounds
            |> Array.scan (fun at (drafted, accepted) -> at + min (drafted + 1) (accepted + 1)) 1

        for at, (drafted, accepted) in Array.zip ends[.. ends.Length - 2] made.Stats.Rounds do
            Expect.equal accepted drafted "all are kept"

            if drafted > 0 then
                Expect.equal made.TokenIds[at .. at + drafted - 1] (early at drafted) "the exit's"

            Expect.equal made.TokenIds[at + drafted] (whole (at + drafted)) "and the whole model's after them"

        // Of the kept ones, those where the whole model would have said something else.
        let loose =
            Array.zip ends[.. ends.Length - 2] made.Stats.Rounds
            |> Seq.collect (fun (at, (drafted, _)) -> seq { at .. at + drafted - 1 })
            |> Seq.filter (fun at -> whole at <> made.TokenIds[at])
            |> Seq.length

        Expect.equal made.LooseTokens loose "loose ones"

    testCase "a draft's law is read while the rule runs" (fun () ->
        let model = { Config = config 24 3 2 2 true; Seed = 3L }
        let seen = ResizeArray<JudgedDraft>()

        withWeights Dtype.F32 model (fun weights ->
            let keep (draft: JudgedDraft) =
                seen.Add draft

                if seen.Count = 1 then
                    Expect.floatClose Accuracy.high (Array.sum draft.Law.Value) 1.0 "a law"

                true

            let case = { Model = model; Exit = 1; Draft = 3; Prompt = [| 1; 5 |] }
            text weights case ((self case).Accepting(AcceptanceRule.lossy "all" keep)) 8 |> ignore)

        Expect.equal
            (seen |> Seq.take 3 |> Seq.map _.Position |> List.ofSeq)
            [ 3; 4; 5 ]
            "after the first token"
        Expect.equal seen[0].Law.Value.Length 24 "what was read stays"
        Expect.throwsT<System.InvalidOperationException> (fun () -> seen[1].Law.Value |> ignore) "too late")

    testCase "a rule whose numbers are wrong is refused" (fun () ->
        let model = { Config = config 24 3 2 2 true; Seed = 3L }

        withWeights Dtype.F32 model (fun weights ->
            let options =
                let exit = Tiny.exit 3 1
                GenerationOptions.greedy
                    (Strategy.SelfSpeculative(exit, 2).Accepting(AcceptanceRule.lossyTopK 0))
                    8

            let found = Generation.run weights None options [| 1 |] |> Check.faults
            Expect.equal found (AcceptanceRule.lossyTopK 0).Faults "its fault"))
]

[<Tests>]
let tests = testSequenced <| testList "acceptance rules" (algebra @ rounds @ live)
