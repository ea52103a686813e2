namespace LayerSkip

open System

/// What may follow a text. Immutable, so that drafts branch: what `Advance` returns leaves this one as it is.
type TokenConstraint =
    /// Fills a bit mask over the vocabulary, bit `id` % 64 of word `id` / 64: the ids that may come next, stop ids only where the text
    /// may end. The mask comes all 0, with as many words as the vocabulary needs; bits beyond it count for nothing.
    abstract Allows: mask: Span<uint64> -> unit

    /// What may follow one token more: one that is allowed, and never a stop id, as nothing follows those.
    abstract Advance: id: int -> TokenConstraint

/// What changes the model's own logits before a token is chosen, by what the text says already. They hold for every row of a verification with
/// the drafts before it as text, so that speculation writes plain decoding's text under the same rules, or draws from its law.
///
/// The order is vLLM's: bias, repetition, frequency, presence; then what the constraint forbids has probability 0. The result is rounded to float32
/// once, as logits are.
[<NoEquality; NoComparison>]
type TokenRules = {
    /// A positive logit of an id that prompt or text have is divided by it, another is multiplied (Keskar et al. 2019, section 4.1, as
    /// transformers, vLLM and llama.cpp compute it); 1: none.
    RepetitionPenalty: float
    /// Taken from the logit of an id that the generated text has, not the prompt (OpenAI's definition, and vLLM's); 0: none.
    PresencePenalty: float
    /// Taken from the logit of an id once for each time that the generated text has it, the prompt not counted; 0: none.
    FrequencyPenalty: float
    /// Added to the logits of ids (OpenAI's logit_bias, -100 to 100); of an id that is named twice both are.
    LogitBias: (int * float) list
    /// What may follow the prompt.
    Constraint: TokenConstraint option
}

/// The rules as they hold after a text. Immutable to whoever looks, one at a time.
[<Sealed>]
type RuledText
    private
    (
        rules: TokenRules,
        vocabulary: int,
        biases: Map<int, float>,
        counts: Map<int, int>,
        rule: TokenConstraint option,
        mask: uint64[]
    ) =
    let mutable following: struct (int * RuledText) voption = ValueNone

    let isPenalised =
        rules.RepetitionPenalty <> 1.0
        || rules.PresencePenalty <> 0.0
        || rules.FrequencyPenalty <> 0.0

    let allows id = mask.Length = 0 || (mask[id / 64] >>> (id % 64)) &&& 1UL = 1UL

    static let maskOf (vocabulary: int) (rule: TokenConstraint) : uint64[] =
        let mask = Array.zeroCreate ((vocabulary + 63) / 64)
        rule.Allows(Span mask)
        let beyond = 64 * mask.Length - vocabulary
        mask[mask.Length - 1] <- mask[mask.Length - 1] <<< beyond >>> beyond
        mask

    /// After a prompt.
    static member internal Start(rules: TokenRules, vocabulary: int, prompt: int[]) : RuledText =
        let add biases (id, bias: float) =
            biases |> Map.change id (fun before -> Some(defaultArg before 0.0 + bias))

        let counts =
            if rules.RepetitionPenalty = 1.0 then
                Map.empty
            else
                prompt |> Seq.distinct |> Seq.map (fun id -> id, 0) |> Map.ofSeq

        let mask = rules.Constraint |> Option.map (maskOf vocabulary) |> Option.defaultValue [||]
        RuledText(rules, vocabulary, List.fold add Map.empty rules.LogitBias, counts, rules.Constraint, mask)

    /// How often the generated text has an id that a penalty looks for; 0 of those that the prompt alone has.
    member internal _.Counts = counts
    member internal _.Biases = biases
    /// A bit for each id of the vocabulary; empty where there is no constraint.
    member internal _.Mask = mask

    /// Whether a token may come next.
    member _.Allows(id: int) : bool = allows id

    /// What penalties and bias make of a logit.
    member _.Logit(id: int, logit: float) : float =
        let biased =
            match biases.TryGetValue id with
            | true, bias -> logit + bias
            | _ -> logit

        match counts.TryGetValue id with
        | true, count ->
            let repeated =
                if biased > 0.0 then
                    biased / rules.RepetitionPenalty
                else
                    biased * rules.RepetitionPenalty

            let present = if count > 0 then rules.PresencePenalty else 0.0
            repeated - rules.FrequencyPenalty * float count - present
        | _ -> biased

    /// After one token more; after one that is not allowed, none is. The latest answer is kept: what a draft asked for, its verification
    /// asks again, and the next round too.
    member _.After(id: int) : RuledText =
        match following with
        | ValueSome(struct (token, next)) when token = id -> next
        | _ ->
            let counts =
                if isPenalised then
                    counts |> Map.change id (fun count -> Some(1 + defaultArg count 0))
                else
                    counts

            let rule, mask =
                match rule with
                | Some rule when allows id ->
                    let next = rule.Advance id
                    Some next, maskOf vocabulary next
                | _ -> rule, Array.zeroCreate mask.Length

            let next = RuledText(rules, vocabulary, biases, counts, rule, mask)
            following <- ValueSome(struct (id, next))
            next

[<RequireQualifiedAccess>]
module TokenRules =
    /// The model's own logits.
    let none: TokenRules = {
        RepetitionPenalty = 1.0
        PresencePenalty = 0.0
        FrequencyPenalty = 0.0
        LogitBias = []
        Constraint = None
    }

    /// Whether nothing is changed.
    let isNone (rules: TokenRules) : bool =
        rules.RepetitionPenalty = 1.0
        && rules.PresencePenalty = 0.0
        && rules.FrequencyPenalty = 0.0
        && rules.LogitBias.IsEmpty
        && rules.Constraint.IsNone

    /// Every number outside its range (NaN is outside all of them), whatever the model.
    let outOfRange (rules: TokenRules) : LayerSkipError list = [
        let within least most option value =
            Check.inRange
                (least <= value && value <= most)
                option
                (Number.show value)
                $"{Number.show least} to {Number.show most}"

        yield! within 0.01 100.0 "repetition-penalty" rules.RepetitionPenalty
        yield! within -2.0 2.0 "presence-penalty" rules.PresencePenalty
        yield! within -2.0 2.0 "frequency-penalty" rules.FrequencyPenalty

        for _, bias in rules.LogitBias do
            yield! within -100.0 100.0 "logit-bias" bias
    ]

    /// Those, and the first biased id that the vocabulary has not.
    let faults (vocabulary: int) (rules: TokenRules) : LayerSkipError list = [
        yield! outOfRange rules

        match rules.LogitBias |> List.tryFind (fun (id, _) -> id < 0 || id >= vocabulary) with
        | Some(id, _) -> LayerSkipError.UnknownToken(id, vocabulary)
        | None -> ()
    ]

    /// What holds after a prompt; None where nothing is changed.
    let internal start (vocabulary: int) (prompt: int[]) (rules: TokenRules) : RuledText option =
        if isNone rules then
            None
        else
            Some(RuledText.Start(rules, vocabulary, prompt))

    /// What holds after a text, and after each of the tokens that follow it: one more than there are tokens.
    let internal along (tokens: int[]) (text: RuledText) : RuledText[] =
        tokens |> Array.scan (fun (text: RuledText) token -> text.After token) text

    /// After drafts, the latest of which is first.
    let internal afterDrafts (made: Draft list) (text: RuledText) : RuledText =
        List.foldBack (fun (draft: Draft) (text: RuledText) -> text.After draft.Token) made text
