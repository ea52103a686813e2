namespace LayerSkip

/// What hidden states draft through the shared head: over the whole vocabulary, or over some of it.
[<RequireQualifiedAccess>]
module DraftChoice =
    let private logits (vocabulary: DraftVocabulary option) (hidden: Hidden) : Logits =
        match vocabulary with
        | Some some -> Model.narrowLogits some hidden
        | None -> Model.logits hidden

    /// Under the rules after `texts`, one for each row; a row in which they leave nothing prefers any token.
    let internal choicesUnder
        (texts: RuledText[])
        (vocabulary: DraftVocabulary option)
        (hidden: Hidden)
        : struct (int * float)[] =
        let struct (ruled, _) =
            logits vocabulary hidden |> RuledLogits.over RuledLogits.least vocabulary texts

        ruled
        |> match vocabulary with
           | Some some -> DraftVocabulary.choices some
           | None -> Logits.choices

    /// The token that each row prefers, and its probability, good to six digits: 0 and 0 where numbers are not finite.
    let choices (vocabulary: DraftVocabulary option) (hidden: Hidden) : struct (int * float)[] =
        logits vocabulary hidden
        |> match vocabulary with
           | Some some -> DraftVocabulary.choices some
           | None -> Logits.choices

    let private greedy vocabulary (reads: DraftReading) (logits: Logits) : Draft =
        let argmax, choices =
            match vocabulary with
            | Some some -> DraftVocabulary.argmax some, DraftVocabulary.choices some
            | None -> Logits.argmax, Logits.choices

        match reads with
        | DraftReading.Token -> Draft.certain (Array.head (argmax logits))
        | DraftReading.Confidence ->
            let struct (token, confidence) = (choices logits)[0]
            { Draft.certain token with Confidence = ValueSome confidence }
        | DraftReading.Entropy ->
            let law = (Logits.toFloats logits)[0] |> Sampling.softmax

            {
                Draft.certain (Array.head (argmax logits)) with
                    Confidence = ValueSome(Array.max law)
                    Entropy = ValueSome(Sampling.entropy law)
            }

    /// A law over some ids is one over the vocabulary, so that refusals are drawn from what is left of the whole model's.
    let private drawn vocabulary sampling (reads: DraftReading) (logits: Logits) key : struct (Draft * Key) =
        let law = (Logits.toFloats logits)[0] |> Sampling.law sampling
        let whole =
            match vocabulary with
            | Some some -> DraftVocabulary.scatter law some
            | None -> law
        let struct (uniform, key) = Key.uniform key
        let draft = Draft.drawn whole (Sampling.pick whole uniform)

        match reads with
        | DraftReading.Entropy -> struct ({ draft with Entropy = ValueSome(Sampling.entropy law) }, key)
        | _ -> struct (draft, key)

    let private choose sampling vocabulary reads key (logits: Logits) : struct (Draft * Key) =
        match sampling with
        | Sampling.Greedy -> struct (greedy vocabulary reads logits, key)
        | Sampling.Filtered _ -> drawn vocabulary sampling reads logits key

    let private nothing (key: Key) : struct (Draft * Key) = struct (Draft.certain 0, key)

    /// The draft of hidden states of one row, with as much as is to be read of it; None of a vocabulary is all of it. Where their
    /// numbers are not finite it is token 0, which the whole model, that may be sound, judges like any other.
    let pick
        (sampling: Sampling)
        (vocabulary: DraftVocabulary option)
        (reads: DraftReading)
        (hidden: Hidden)
        (key: Key)
        : struct (Draft * Key) =
        let logits = logits vocabulary hidden

        if (Logits.tryFirstNotFinite logits).IsSome then
            nothing key
        else
            choose sampling vocabulary reads key logits

    /// `pick` under the rules after a text. Where a draft vocabulary has nothing that they allow, the whole one is asked; where that has
    /// nothing either, the draft is token 0.
    let rec internal pickUnder
        (text: RuledText)
        (sampling: Sampling)
        (vocabulary: DraftVocabulary option)
        (reads: DraftReading)
        (hidden: Hidden)
        (key: Key)
        : struct (Draft * Key) =
        let forbidden =
            match sampling with
            | Sampling.Greedy -> RuledLogits.least
            | Sampling.Filtered _ -> RuledLogits.none

        let logits = logits vocabulary hidden

        if (Logits.tryFirstNotFinite logits).IsSome then
            nothing key
        else
            match RuledLogits.over forbidden vocabulary [| text |] logits with
            | struct (ruled, ValueNone) -> choose sampling vocabulary reads key ruled
            | _ when vocabulary.IsSome -> pickUnder text sampling None reads hidden key
            | _ -> nothing key
