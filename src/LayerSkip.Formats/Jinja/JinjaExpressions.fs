namespace LayerSkip

open System.Runtime.CompilerServices

/// Expressions, with jinja2's precedences: if, or, and, not, comparisons, + and -, ~, * / // %, **, signs, what is behind a value.
[<RequireQualifiedAccess>]
module internal JinjaExpressions =
    let private at (place: JinjaPlace) (form: ExpressionForm) : Expression = { At = place; Form = form }

    let rec private choice (reader: TokenReader) : Expression =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        let mutable first = disjunction reader

        while reader.IsWord "if" do
            let place = reader.Place
            reader.Skip()
            let condition = disjunction reader
            let other =
                if reader.TakesWord "else" then
                    Some(choice reader)
                else
                    None
            first <- at place (ExpressionForm.Choice(condition, first, other))

        first

    and private disjunction (reader: TokenReader) : Expression =
        let mutable left = conjunction reader

        while reader.IsWord "or" do
            let place = reader.Place
            reader.Skip()
            left <- at place (ExpressionForm.Or(left, conjunction reader))

        left

    and private conjunction (reader: TokenReader) : Expression =
        let mutable left = negation reader

        while reader.IsWord "and" do
            let place = reader.Place
            reader.Skip()
            left <- at place (ExpressionForm.And(left, negation reader))

        left

    and private negation (reader: TokenReader) : Expression =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        let place = reader.Place

        if reader.TakesWord "not" then
            at place (ExpressionForm.Not(negation reader))
        else
            comparison reader

    and private comparison (reader: TokenReader) : Expression =
        let place = reader.Place
        let first = sum reader

        let tryNext () =
            match JinjaSequence.comparisons |> List.tryFind (fun (sign, _) -> reader.IsSign sign) with
            | Some(_, comparison) ->
                reader.Skip()
                Some comparison
            | None when reader.TakesWord "in" -> Some Comparison.In
            | None when reader.IsWord "not" && reader.Following = JinjaToken.Name "in" ->
                reader.Skip()
                reader.Skip()
                Some Comparison.NotIn
            | None -> None

        let others = [
            let mutable next = tryNext ()

            while next.IsSome do
                yield next.Value, sum reader
                next <- tryNext ()
        ]

        if others.IsEmpty then
            first
        else
            at place (ExpressionForm.Compare(first, others))

    and private sum (reader: TokenReader) : Expression =
        JinjaSequence.chain [ "+", Operator.Add; "-", Operator.Subtract ] joined reader

    and private joined (reader: TokenReader) : Expression =
        let place = reader.Place
        let first = product reader

        if reader.IsSign "~" then
            let others = [
                while reader.TakesSign "~" do
                    product reader
            ]

            at place (ExpressionForm.Join(first :: others))
        else
            first

    and private product (reader: TokenReader) : Expression =
        let operators = [
            "*", Operator.Multiply
            "/", Operator.Divide
            "//", Operator.FloorDivide
            "%", Operator.Modulo
        ]

        JinjaSequence.chain operators (JinjaSequence.chain [ "**", Operator.Power ] (signed true)) reader

    and private signed (withFilters: bool) (reader: TokenReader) : Expression =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        let place = reader.Place

        let value =
            if reader.TakesSign "-" then
                at place (ExpressionForm.Negate(signed false reader))
            elif reader.TakesSign "+" then
                at place (ExpressionForm.Plus(signed false reader))
            else
                primary reader

        let value = behind reader value
        if withFilters then filtered reader value else value

    and private primary (reader: TokenReader) : Expression =
        let place = reader.Place
        let constant value = at place (ExpressionForm.Constant value)

        match reader.Current with
        | JinjaToken.Name name ->
            reader.Skip()

            match name with
            | "true"
            | "True" -> constant (Value.Bool true)
            | "false"
            | "False" -> constant (Value.Bool false)
            | "none"
            | "None" -> constant Value.None
            | name -> at place (ExpressionForm.Variable name)
        | JinjaToken.String _ ->
            // Texts side by side are one.
            let mutable text = ""

            let rec take () =
                match reader.Current with
                | JinjaToken.String more ->
                    text <- text + more
                    reader.Skip()
                    take ()
                | _ -> ()

            take ()
            constant (Value.text text)
        | JinjaToken.Int value ->
            reader.Skip()
            constant (Value.Int value)
        | JinjaToken.Float value ->
            reader.Skip()
            constant (Value.Float value)
        | JinjaToken.Sign "(" ->
            reader.Skip()
            let inner = JinjaSequence.tupleUntil reader true choice (fun () -> reader.IsSign ")")
            reader.NeedsSign ")"
            inner
        | JinjaToken.Sign "[" ->
            reader.Skip()
            at place (ExpressionForm.List(JinjaSequence.listUntil reader "]" choice))
        | JinjaToken.Sign "{" ->
            reader.Skip()

            at
                place
                (ExpressionForm.Dict(
                    JinjaSequence.listUntil reader "}" (fun reader ->
                        let key = choice reader
                        reader.NeedsSign ":"
                        key, choice reader)
                ))
        | _ -> reader.Fault $"a value is expected, not {reader.Shown}"

    /// Attributes, items and calls behind a value.
    and private behind (reader: TokenReader) (value: Expression) : Expression =
        let place = reader.Place

        if reader.TakesSign "." then
            match reader.Current with
            | JinjaToken.Name name ->
                reader.Skip()
                behind reader (at place (ExpressionForm.Attribute(value, name)))
            | JinjaToken.Int index ->
                let key = at reader.Place (ExpressionForm.Constant(Value.Int index))
                reader.Skip()
                behind reader (at place (ExpressionForm.Item(value, key)))
            | _ -> reader.Fault $"a name or a number is expected behind '.', not {reader.Shown}"
        elif reader.TakesSign "[" then
            behind reader (at place (subscript reader value))
        elif reader.IsSign "(" then
            behind reader (at place (ExpressionForm.Call(value, arguments reader)))
        else
            value

    and private subscript (reader: TokenReader) (value: Expression) : ExpressionForm =
        let bound () =
            if reader.IsSign ":" || reader.IsSign "]" then
                None
            else
                Some(choice reader)

        let first = bound ()

        let form =
            if reader.TakesSign ":" then
                let stop = bound ()
                let step = if reader.TakesSign ":" then bound () else None
                ExpressionForm.Slice(value, first, stop, step)
            else
                match first with
                | Some key when reader.IsSign "," ->
                    let others = [
                        while reader.TakesSign "," do
                            choice reader
                    ]

                    ExpressionForm.Item(value, at key.At (ExpressionForm.Tuple(key :: others)))
                | Some key -> ExpressionForm.Item(value, key)
                | None -> reader.Fault "a key is expected between the brackets"

        reader.NeedsSign "]"
        form

    and private arguments (reader: TokenReader) : CallArguments =
        reader.NeedsSign "("

        let all =
            JinjaSequence.listUntil reader ")" (fun reader ->
                match reader.Current, reader.Following with
                | JinjaToken.Name name, JinjaToken.Sign "=" ->
                    reader.Skip()
                    reader.Skip()
                    Some name, choice reader
                | JinjaToken.Sign("*" | "**" as sign), _ ->
                    reader.Skip()
                    Some sign, choice reader
                | _ -> None, choice reader)

        let isNamed (name, _) = Option.isSome name
        let positional, named = List.takeWhile (isNamed >> not) all, List.skipWhile (isNamed >> not) all

        for name, value in named do
            if Option.isNone name then
                raise (JinjaFault(value.At, "an argument without a name stands behind one with a name"))

        let spread (sign: string) =
            match named |> List.filter (fst >> (=) (Some sign)) with
            | [] -> None
            | [ _, value ] -> Some value
            | (_, value) :: _ -> raise (JinjaFault(value.At, $"{sign} stands twice"))

        {
            Positional = List.map snd positional
            Named = [
                for name, value in named do
                    match name with
                    | Some("*" | "**")
                    | None -> ()
                    | Some name -> name, value
            ]
            Spread = spread "*"
            NamedSpread = spread "**"
        }

    and private dotted (reader: TokenReader) : string =
        let mutable name = reader.NeedsName()

        while reader.TakesSign "." do
            name <- $"{name}.{reader.NeedsName()}"

        name

    and private filterCall (reader: TokenReader) : FilterCall =
        let place = reader.Place
        let name = dotted reader

        let arguments =
            if reader.IsSign "(" then
                arguments reader
            else
                JinjaSequence.noArguments

        { Name = name; Arguments = arguments; Place = place }

    /// Filters, tests and calls behind a value.
    and private filtered (reader: TokenReader) (value: Expression) : Expression =
        let place = reader.Place

        if reader.TakesSign "|" then
            filtered reader (at place (ExpressionForm.Filter(value, filterCall reader)))
        elif reader.TakesWord "is" then
            let isNegated = reader.TakesWord "not"
            let test = at place (ExpressionForm.Test(value, test reader))
            filtered
                reader
                (if isNegated then
                     at place (ExpressionForm.Not test)
                 else
                     test)
        elif reader.IsSign "(" then
            filtered reader (at place (ExpressionForm.Call(value, arguments reader)))
        else
            value

    // A test may take one value without parentheses: x is divisibleby 3.
    and private test (reader: TokenReader) : FilterCall =
        let call = filterCall reader
        let hadArguments = not (call.Arguments.Positional.IsEmpty && call.Arguments.Named.IsEmpty)

        let beginsValue =
            match reader.Current with
            | JinjaToken.Name("else" | "or" | "and") -> false
            | JinjaToken.Name "is" -> reader.Fault "tests cannot follow one another: put one in parentheses"
            | JinjaToken.Name _
            | JinjaToken.String _
            | JinjaToken.Int _
            | JinjaToken.Float _
            | JinjaToken.Sign("[" | "{") -> true
            | _ -> false

        if beginsValue && not hadArguments then
            let value = behind reader (primary reader)
            { call with Arguments = { JinjaSequence.noArguments with Positional = [ value ] } }
        else
            call

    /// An expression.
    let read (reader: TokenReader) : Expression = choice reader

    /// One or more expressions with commas between them, up to the end of a tag; `choices` allows a bare if-else.
    let readTuple (choices: bool) (reader: TokenReader) : Expression =
        let isEnd () = reader.Current = JinjaToken.BlockEnd || reader.Current = JinjaToken.PrintEnd

        JinjaSequence.tupleUntil reader false (if choices then choice else disjunction) isEnd

    /// A literal or a name with what is behind it.
    let filter (reader: TokenReader) : FilterCall = filterCall reader
