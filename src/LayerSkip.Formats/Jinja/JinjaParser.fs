namespace LayerSkip

open System
open System.Runtime.CompilerServices

/// The statements of a template: those of jinja2 that need no other template, loop controls, and transformers' `generation`.
[<RequireQualifiedAccess>]
module internal JinjaParser =
    let private elsewhere = [ "extends"; "block"; "include"; "import"; "from" ]
    let private unknown = [ "autoescape"; "do"; "trans"; "debug" ]
    // Names that stand for something inside of macros only.
    let private ofMacros = [ "varargs"; "kwargs" ]

    let private target (allowsAttribute: bool) (isEnd: unit -> bool) (reader: TokenReader) : Target =
        let rec one () =
            RuntimeHelpers.EnsureSufficientExecutionStack()

            if reader.TakesSign "(" then
                let inner = several (fun () -> reader.IsSign ")")
                reader.NeedsSign ")"
                inner
            else
                let place = reader.Place
                let name = reader.NeedsName()

                match name.ToLowerInvariant() with
                | "true"
                | "false"
                | "none" when name <> name.ToUpperInvariant() ->
                    raise (JinjaFault(place, $"{name} cannot be assigned to"))
                | _ -> ()

                if allowsAttribute && reader.TakesSign "." then
                    Target.Attribute(name, reader.NeedsName(), place)
                else
                    Target.Name name

        and several isEnd =
            let first = one ()

            if reader.IsSign "," then
                Target.Tuple(
                    first
                    :: [
                        while reader.TakesSign "," do
                            if not (isEnd ()) then
                                one ()
                    ]
                )
            else
                first

        several isEnd

    let private endTag (reader: TokenReader) : unit =
        if not (reader.Takes JinjaToken.BlockEnd) then
            reader.Fault $"the end of the tag is expected, not {reader.Shown}"

    let rec private filters (reader: TokenReader) : FilterCall list =
        if reader.TakesSign "|" then
            let call = JinjaExpressions.filter reader
            call :: filters reader
        else
            []

    /// Statements up to a tag that begins with one of these words, which is taken: the statements and the word.
    let rec private until (inLoop: bool) (words: string list) (opened: string) (reader: TokenReader) =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        let start = reader.Place
        let mutable ending = ""

        let statements = [
            while ending = "" do
                match reader.Current, reader.Following with
                | JinjaToken.BlockBegin, JinjaToken.Name word when List.contains word words ->
                    reader.Skip()
                    reader.Skip()
                    ending <- word
                | JinjaToken.End, _ -> raise (JinjaFault(start, $"{opened} has no {List.last words}"))
                | _ -> statement inLoop reader
        ]

        statements, ending

    /// The same up to one word, with the end of its tag.
    and private block inLoop (word: string) (opened: string) (reader: TokenReader) : Statement list =
        let statements, _ = until inLoop [ word ] opened reader
        endTag reader
        statements

    and private statement inLoop (reader: TokenReader) : Statement =
        match reader.Current with
        | JinjaToken.Text text ->
            reader.Skip()
            Statement.Write text
        | JinjaToken.PrintBegin ->
            reader.Skip()
            let value = JinjaExpressions.readTuple true reader

            if not (reader.Takes JinjaToken.PrintEnd) then
                reader.Fault $"the end of the tag is expected, not {reader.Shown}"

            Statement.Print value
        | _ ->
            reader.Skip()
            let place = reader.Place
            let word = reader.NeedsName()

            match word with
            | "if" -> ifs inLoop reader
            | "for" -> loop place reader
            | "set" -> set inLoop reader
            | "macro" -> macro reader
            | "call" -> callBlock reader
            | "with" -> withs inLoop reader
            | "filter" ->
                let first = JinjaExpressions.filter reader
                let others = filters reader
                endTag reader
                Statement.Filtered(first :: others, block inLoop "endfilter" word reader)
            | "generation" ->
                endTag reader
                Statement.Generation(block false "endgeneration" word reader)
            | "break"
            | "continue" ->
                if not inLoop then
                    raise (JinjaFault(place, $"{word} stands outside of a loop"))

                endTag reader
                if word = "break" then
                    Statement.Break place
                else
                    Statement.Continue place
            | word when List.contains word elsewhere ->
                raise (JinjaFault(place, $"{word} needs other templates, which a chat template has not"))
            | word when List.contains word unknown ->
                raise (JinjaFault(place, $"the tag {word} is not known here"))
            | word -> raise (JinjaFault(place, $"unknown tag {word}"))

    and private ifs inLoop (reader: TokenReader) : Statement =
        let rec branches () =
            let condition = JinjaExpressions.readTuple false reader
            endTag reader
            let body, ending = until inLoop [ "elif"; "else"; "endif" ] "if" reader

            match ending with
            | "elif" ->
                let others, otherwise = branches ()
                (condition, body) :: others, otherwise
            | "else" ->
                endTag reader
                [ condition, body ], block inLoop "endif" "if" reader
            | _ ->
                endTag reader
                [ condition, body ], []

        Statement.If(branches ())

    and private loop place (reader: TokenReader) : Statement =
        let target = target false (fun () -> reader.IsWord "in") reader

        if not (reader.TakesWord "in") then
            reader.Fault $"'in' is expected, not {reader.Shown}"

        let over = JinjaExpressions.readTuple false reader
        let where =
            if reader.TakesWord "if" then
                Some(JinjaExpressions.read reader)
            else
                None

        if reader.IsWord "recursive" then
            reader.Fault "recursive loops are not known here"

        endTag reader
        let body, ending = until true [ "else"; "endfor" ] "for" reader
        endTag reader

        Statement.For {
            Target = target
            Over = over
            Where = where
            Body = body
            Otherwise =
                if ending = "else" then
                    block false "endfor" "for" reader
                else
                    []
            ForPlace = place
        }

    and private set inLoop (reader: TokenReader) : Statement =
        let target = target true (fun () -> reader.IsSign "=") reader

        if reader.TakesSign "=" then
            let value = JinjaExpressions.readTuple true reader
            endTag reader
            Statement.Assign(target, value)
        else
            let filters = filters reader
            endTag reader
            Statement.Capture(target, filters, block inLoop "endset" "set" reader)

    /// The parameters of a macro between parentheses, the defaults last.
    and private parameters (reader: TokenReader) : (string * Expression option) list =
        reader.NeedsSign "("

        let found =
            JinjaSequence.listUntil reader ")" (fun reader ->
                let parameter = reader.NeedsName()

                parameter,
                (if reader.TakesSign "=" then
                     Some(JinjaExpressions.read reader)
                 else
                     None))

        let hasDefault (_, fallback: Expression option) = fallback.IsSome

        if found |> List.skipWhile (hasDefault >> not) |> List.exists (hasDefault >> not) then
            reader.Fault "a parameter without a default stands behind one with a default"

        found

    and private macro (reader: TokenReader) : Statement =
        let name = reader.NeedsName()
        let start = reader.Position
        let parameters = parameters reader
        endTag reader
        let body = block false "endmacro" "macro" reader

        Statement.Macro {
            MacroName = name
            Parameters = parameters
            MacroBody = body
            UsesCaller = reader.HasSeen("caller", start)
        }

    and private callBlock (reader: TokenReader) : Statement =
        let start = reader.Position
        let parameters = if reader.IsSign "(" then parameters reader else []
        let called = JinjaExpressions.read reader
        endTag reader

        match called.Form with
        | ExpressionForm.Call _ -> ()
        | _ -> raise (JinjaFault(called.At, "a call of a macro is expected"))

        let body = block false "endcall" "call" reader

        let caller = {
            MacroName = "caller"
            Parameters = parameters
            MacroBody = body
            UsesCaller = reader.HasSeen("caller", start)
        }

        Statement.CallBlock(caller, called)

    and private withs inLoop (reader: TokenReader) : Statement =
        let assignments = [
            let mutable isFirst = true

            while reader.Current <> JinjaToken.BlockEnd do
                if not isFirst then
                    reader.NeedsSign ","

                isFirst <- false
                let target = target false (fun () -> reader.IsSign "=") reader
                reader.NeedsSign "="
                yield target, JinjaExpressions.read reader
        ]

        endTag reader
        Statement.With(assignments, block inLoop "endwith" "with" reader)

    /// A whole template, or the place where it is none.
    let parse (source: string) : Statement list =
        let tokens = JinjaLexer.tokens source

        for struct (token, place) in tokens do
            match token with
            | JinjaToken.Name name when List.contains name ofMacros ->
                raise (JinjaFault(place, $"{name} of macros is not known here"))
            | _ -> ()

        let reader = TokenReader tokens

        [
            while reader.Current <> JinjaToken.End do
                statement false reader
        ]
