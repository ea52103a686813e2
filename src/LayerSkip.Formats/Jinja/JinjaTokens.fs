namespace LayerSkip

/// Tokens as a parser takes them, one after the other.
[<Sealed>]
type internal TokenReader(tokens: (struct (JinjaToken * JinjaPlace))[]) =
    let mutable at = 0

    let ahead (count: int) =
        let struct (token, _) = tokens[min (at + count) (tokens.Length - 1)]
        token

    /// The next token, which stays.
    member _.Current: JinjaToken = ahead 0
    /// The one after it.
    member _.Following: JinjaToken = ahead 1

    /// Where the next token stands.
    member _.Place: JinjaPlace =
        let struct (_, place) = tokens[min at (tokens.Length - 1)]
        place

    member _.Skip() : unit = at <- at + 1

    /// How many tokens were taken.
    member _.Position: int = at

    /// Whether a name was among the tokens taken since.
    member _.HasSeen(name: string, since: int) : bool =
        seq { since .. at - 1 }
        |> Seq.exists (fun index ->
            let struct (token, _) = tokens[index]
            token = JinjaToken.Name name)

    /// A fault of this place.
    member this.Fault(what: string) : 'T = raise (JinjaFault(this.Place, what))

    /// Whether the next token is a sign or a word; then it is taken.
    member this.Takes(wanted: JinjaToken) : bool =
        let found = this.Current = wanted

        if found then
            at <- at + 1

        found

    member this.TakesSign(sign: string) : bool = this.Takes(JinjaToken.Sign sign)
    member this.TakesWord(word: string) : bool = this.Takes(JinjaToken.Name word)
    member this.IsSign(sign: string) : bool = this.Current = JinjaToken.Sign sign
    member this.IsWord(word: string) : bool = this.Current = JinjaToken.Name word

    /// What the next token is, for people.
    member this.Shown: string =
        match this.Current with
        | JinjaToken.Name name -> $"'{name}'"
        | JinjaToken.Sign sign -> $"'{sign}'"
        | JinjaToken.String _ -> "a text"
        | JinjaToken.Int _
        | JinjaToken.Float _ -> "a number"
        | JinjaToken.BlockEnd
        | JinjaToken.PrintEnd -> "the end of the tag"
        | JinjaToken.Text _
        | JinjaToken.BlockBegin
        | JinjaToken.PrintBegin
        | JinjaToken.End -> "the end of the template"

    /// Takes a sign that must come.
    member this.NeedsSign(sign: string) : unit =
        if not (this.TakesSign sign) then
            this.Fault $"'{sign}' is expected, not {this.Shown}"

    /// Takes a name that must come.
    member this.NeedsName() : string =
        match this.Current with
        | JinjaToken.Name name ->
            at <- at + 1
            name
        | _ -> this.Fault $"a name is expected, not {this.Shown}"

/// Signs of comparisons, and several things with commas between them.
[<RequireQualifiedAccess>]
module internal JinjaSequence =
    /// A call without arguments.
    let noArguments: CallArguments = { Positional = []; Named = []; Spread = None; NamedSpread = None }

    /// The signs of comparisons.
    let comparisons = [
        "==", Comparison.Equal
        "!=", Comparison.NotEqual
        "<", Comparison.Less
        "<=", Comparison.LessOrEqual
        ">", Comparison.Greater
        ">=", Comparison.GreaterOrEqual
    ]

    /// Items with commas between them up to a closing sign, which is taken.
    let listUntil (reader: TokenReader) (closing: string) (item: TokenReader -> 'T) : 'T list = [
        let mutable isFirst = true

        while not (reader.TakesSign closing) do
            if not isFirst then
                reader.NeedsSign ","

            isFirst <- false

            if not (reader.IsSign closing) then
                item reader
    ]

    /// One expression, or several with commas as a tuple.
    let tupleUntil
        (reader: TokenReader)
        (allowsNone: bool)
        (item: TokenReader -> Expression)
        (isEnd: unit -> bool)
        : Expression =
        let place = reader.Place

        if isEnd () && allowsNone then
            { At = place; Form = ExpressionForm.Tuple [] }
        else
            let first = item reader

            if reader.IsSign "," then
                let others = [
                    while reader.TakesSign "," do
                        if not (isEnd ()) then
                            item reader
                ]

                { At = place; Form = ExpressionForm.Tuple(first :: others) }
            else
                first

    /// left op right op right, where `operators` are of one precedence.
    let chain (operators: (string * Operator) list) (next: TokenReader -> Expression) (reader: TokenReader) =
        let mutable left = next reader
        let found () = operators |> List.tryFind (fun (sign, _) -> reader.IsSign sign)
        let mutable operator = found ()

        while operator.IsSome do
            let place = reader.Place
            reader.Skip()
            left <- { At = place; Form = ExpressionForm.Binary(snd operator.Value, left, next reader) }
            operator <- found ()

        left
