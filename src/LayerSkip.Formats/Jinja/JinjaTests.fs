namespace LayerSkip

open System.Globalization
open System.Numerics

/// jinja2's tests.
[<RequireQualifiedAccess>]
module internal JinjaTests =
    let private comparisons =
        Map [
            "==", Comparison.Equal
            "eq", Comparison.Equal
            "equalto", Comparison.Equal
            "!=", Comparison.NotEqual
            "ne", Comparison.NotEqual
            ">", Comparison.Greater
            "gt", Comparison.Greater
            "greaterthan", Comparison.Greater
            ">=", Comparison.GreaterOrEqual
            "ge", Comparison.GreaterOrEqual
            "<", Comparison.Less
            "lt", Comparison.Less
            "lessthan", Comparison.Less
            "<=", Comparison.LessOrEqual
            "le", Comparison.LessOrEqual
            "in", Comparison.In
        ]

    let private isNumber (value: Value) = (Value.tryNumber value).IsSome

    let private isIterable (value: Value) =
        match value with
        | Value.None
        | Value.Bool _
        | Value.Int _
        | Value.Float _
        | Value.Namespace _
        | Value.Function _ -> false
        | Value.Undefined _
        | Value.Text _
        | Value.List _
        | Value.Tuple _
        | Value.Dict _
        | Value.View _
        | Value.Range _
        | Value.Generator _
        | Value.Loop _ -> true

    let private isSequence (value: Value) =
        value.IsUndefined
        || value.IsText
        || value.IsList
        || value.IsTuple
        || value.IsDict
        || value.IsRange

    let private remainder (context: JinjaContext) (value: Value) (divisor: Value) =
        JinjaOperators.apply context.Work Operator.Modulo value divisor

    let private isSame (a: Value) (b: Value) =
        match a, b with
        | Value.None, Value.None -> true
        | Value.Bool a, Value.Bool b -> a = b
        | _ when Value.typeName a <> Value.typeName b -> false
        | _ -> Value.fail "sameas is known here of true, false and none; compare by =="

    /// A test by its name; None of what we do not know.
    let tryFind (name: string) : (JinjaContext -> Value -> Given -> bool) option =
        let plain (holds: Value -> bool) =
            Some(fun (_: JinjaContext) value given ->
                Arguments(name, [], given) |> ignore
                holds value)

        let hasRemainder (wanted: int) =
            Some(fun (context: JinjaContext) value (_: Given) ->
                JinjaOrder.equal context.Work (remainder context value (Value.whole 2)) (Value.whole wanted))

        let cased (category: UnicodeCategory) =
            Some(fun (context: JinjaContext) value (_: Given) ->
                JinjaCase.isAll category (JinjaPrint.text context.Work value).Text)

        match name with
        | "defined" -> plain (fun value -> not value.IsUndefined)
        | "undefined" -> plain _.IsUndefined
        | "none" -> plain _.IsNone
        | "boolean" -> plain _.IsBool
        | "true" ->
            plain (fun value ->
                match value with
                | Value.Bool value -> value
                | _ -> false)
        | "false" ->
            plain (fun value ->
                match value with
                | Value.Bool value -> not value
                | _ -> false)
        | "integer" -> plain _.IsInt
        | "float" -> plain _.IsFloat
        | "number" -> plain isNumber
        | "string" -> plain _.IsText
        | "mapping" -> plain _.IsDict
        | "iterable" -> plain isIterable
        | "sequence" -> plain isSequence
        | "callable" -> plain _.IsFunction
        | "escaped" -> plain (fun _ -> false)
        | "odd" -> hasRemainder 1
        | "even" -> hasRemainder 0
        | "divisibleby" ->
            Some(fun context value given ->
                let divisor = Arguments(name, [ "num" ], given).Find "num"
                JinjaOrder.equal context.Work (remainder context value divisor) (Value.Int BigInteger.Zero))
        | "lower" -> cased UnicodeCategory.LowercaseLetter
        | "upper" -> cased UnicodeCategory.UppercaseLetter
        | "sameas" ->
            Some(fun _ value given -> isSame value (Arguments(name, [ "other" ], given).Find "other"))
        | name ->
            comparisons.TryFind name
            |> Option.map (fun comparison ->
                fun context value given ->
                    let other = Arguments(name, [ "other" ], given).Find "other"
                    JinjaOperators.compares context.Work comparison value other)
